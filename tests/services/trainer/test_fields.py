"""Each hyperparameter changes what the trainer does."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from domain.training.hyperparameters import Hyperparameters
from tests.services.trainer.segments import Run, Trainer

BASE: dict[str, Any] = {"epochs": 1, "save_steps": 2, "warmup_share": 0.2}
WITHOUT_EFFECT_ON_THE_ADAPTER = {"save_steps", "eval_steps"}
OF_DPO = {"method", "beta"}
"""Fields that `test_dpo.py` tests."""

IN_OTHER_TESTS = {
    "early_stopping_patience",
    "early_stopping_threshold",
    "load_best_model_at_end",
    "n_checkpoints",
}
"""Fields that change nothing as long as each evaluation is the best. See test_early_stopping.py."""


def config(name: str) -> Callable[[Run], Any]:
    """Return a function that reads a field of the adapter's configuration."""
    return lambda run: run.fields["config"][name]


def total_steps(run: Run) -> int:
    return run.fields["total_steps"]


def rates(run: Run) -> list[float]:
    return [round(step.learning_rate, 6) for step in run.steps]


def steps_done(run: Run) -> int:
    return len(run.steps)


# 19 of 20 chats are trained on, four per step: five steps, of which one warms up.
TABLE: dict[str, tuple[Any, Callable[[Run], Any], Any]] = {
    "epochs": (2, total_steps, 10),
    "learning_rate": (0.002, lambda run: max(rates(run)), 0.002),
    "lora_r": (3, config("r"), 3),
    "lora_alpha": (5, config("lora_alpha"), 5),
    "micro_batch_size": (3, total_steps, 4),
    "dropout": (0.5, config("lora_dropout"), 0.5),
    "use_dora": (True, config("use_dora"), True),
    "use_rslora": (True, config("use_rslora"), True),
    "target_modules": (("up_proj", "k_proj"), config("target_modules"), ["k_proj", "up_proj"]),
    "gradient_accumulation": (3, total_steps, 4),
    "max_sequence_length": (40, lambda run: max(s.tokens for s in run.steps) <= 4 * 40, True),
    "schedule": ("linear", rates, [0.01, 0.01, 0.0075, 0.005, 0.0025]),
    "warmup_share": (0.4, lambda run: rates(run)[:3], [0.005, 0.01, 0.01]),
    "weight_decay": (1.0, steps_done, 5),
    "max_grad_norm": (0.001, steps_done, 5),
    "save_steps": (3, lambda run: run.saved_steps, [3, 5]),
    "eval_steps": (3, lambda run: [each.step for each in run.evaluations], [3, 0, 5]),
    "seed": (7, steps_done, 5),
}


@pytest.mark.full
def test_each_field_changes_what_the_trainer_does(trainer: Trainer) -> None:
    def train(**changes: Any) -> tuple[Run, str]:
        spec = trainer.spec(BASE | changes)
        run = trainer.run(spec)
        content = trainer.artifacts.get(f"{spec.adapter_prefix}/adapter_config.json")
        run.fields["config"] = json.loads(content)
        return run, trainer.adapter_sha256(spec)

    assert TABLE.keys() | IN_OTHER_TESTS == Hyperparameters.model_fields.keys() - OF_DPO
    base, base_adapter = train()
    assert train()[1] == base_adapter
    for name, (value, seen, expected) in TABLE.items():
        run, adapter = train(**{name: value})
        assert seen(run) == expected, name
        same = adapter == base_adapter
        assert same == (name in WITHOUT_EFFECT_ON_THE_ADAPTER), name
        if same:
            assert seen(base) != expected, name
