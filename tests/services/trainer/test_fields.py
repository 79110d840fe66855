"""Each hyperparameter changes what the trainer does."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from domain.training.hyperparameters import Hyperparameters
from infrastructure.artifacts import Artifacts
from infrastructure.reports import SegmentSpec
from tests.services.trainer.conftest import SpecMaker
from tests.services.trainer.notes import Notes

BASE: dict[str, Any] = {"epochs": 1, "learning_rate": 0.01, "micro_batch_size": 2}
BASE |= {"gradient_accumulation": 2, "save_steps": 2, "warmup_share": 0.2}


class Ran:
    """A finished job."""

    def __init__(self, notes: Notes, spec: SegmentSpec, artifacts: Artifacts) -> None:
        self.notes = notes
        self.config = json.loads(artifacts.get(f"{spec.adapter_prefix}/adapter_config.json"))
        files = {each.path: each.sha256 for each in artifacts.manifest(spec.adapter_prefix).files}
        self.adapter = files["adapter_model.safetensors"]

    @property
    def total_steps(self) -> int:
        return self.notes.fields["total_steps"]

    @property
    def losses(self) -> list[float]:
        return [each.train_loss for each in self.notes.steps]

    @property
    def rates(self) -> list[float]:
        return [round(each.learning_rate, 6) for each in self.notes.steps]


# 19 of 20 chats are trained on, four a step: five steps, of which one warms up.
TABLE: dict[str, tuple[Any, Callable[[Ran], Any], Any]] = {
    "epochs": (2, lambda ran: ran.total_steps, 10),
    "learning_rate": (0.002, lambda ran: max(ran.rates), 0.002),
    "lora_r": (3, lambda ran: ran.config["r"], 3),
    "lora_alpha": (5, lambda ran: ran.config["lora_alpha"], 5),
    "micro_batch_size": (3, lambda ran: ran.total_steps, 4),
    "dropout": (0.5, lambda ran: ran.config["lora_dropout"], 0.5),
    "use_rslora": (True, lambda ran: ran.config["use_rslora"], True),
    "target_modules": (
        ("up_proj", "k_proj"),
        lambda ran: ran.config["target_modules"],
        ["k_proj", "up_proj"],
    ),
    "gradient_accumulation": (3, lambda ran: ran.total_steps, 4),
    "max_sequence_length": (
        40,
        lambda ran: max(each.tokens for each in ran.notes.steps) <= 4 * 40,
        True,
    ),
    "schedule": ("linear", lambda ran: ran.rates, [0.01, 0.01, 0.0075, 0.005, 0.0025]),
    "warmup_share": (0.4, lambda ran: ran.rates[:3], [0.005, 0.01, 0.01]),
    "weight_decay": (1.0, lambda ran: len(ran.losses), 5),
    "max_grad_norm": (0.001, lambda ran: len(ran.losses), 5),
    "save_steps": (3, lambda ran: [each.step for each in ran.notes.checkpoints], [3, 5]),
    "eval_steps": (3, lambda ran: [each.step for each in ran.notes.evaluations], [3, 0, 5]),
    "seed": (7, lambda ran: len(ran.losses), 5),
}

WITHOUT_EFFECT_ON_THE_ADAPTER = {"save_steps", "eval_steps"}


@pytest.mark.full
def test_each_field_changes_what_the_trainer_does(
    run: Callable[..., Notes], make_spec: SpecMaker, artifacts: Artifacts
) -> None:
    def ran(**changes: Any) -> Ran:
        spec = make_spec(BASE | changes)
        return Ran(run(spec), spec, artifacts)

    assert TABLE.keys() == Hyperparameters.model_fields.keys()
    base = ran()
    assert ran().adapter == base.adapter
    for name, (value, seen, expected) in TABLE.items():
        changed = ran(**{name: value})
        assert seen(changed) == expected, name
        same = changed.adapter == base.adapter
        assert same == (name in WITHOUT_EFFECT_ON_THE_ADAPTER), name
        if same:
            assert seen(base) != expected, name
