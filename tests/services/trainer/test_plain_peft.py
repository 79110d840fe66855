"""An adapter loads with PEFT and a base, without EcoLink."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from domain.training.hyperparameters import Hyperparameters
from domain.training.precision import Precision
from infrastructure.artifacts import Artifacts
from services.scheduler.model_card import TEMPLATE
from services.trainer import segment
from services.trainer.model import attach_adapter, load_base, save_adapter
from tests.services.trainer.conftest import SpecMaker

PROBE = [[1, 5, 9, 30, 200, 17, 4, 2]]

ALONE = """
import json, sys
ours = ("services", "infrastructure", "domain", "projections", "gateway", "deploy")
sys.modules.update(dict.fromkeys(ours))  # Python's own way to say: not installed
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

answers = []
for case in json.load(sys.stdin):
    options = {"dtype": getattr(torch, case["dtype"])}
    if case["nf4"]:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=options["dtype"],
        )
        options["device_map"] = {"": "cpu"}
    base = AutoModelForCausalLM.from_pretrained(case["base"], **options)
    for layer in base.modules():  # bitsandbytes cannot pack layers as small as the tiny model's
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    model = PeftModel.from_pretrained(base, case["adapter"]).eval()
    with torch.no_grad():
        answers.append(model(input_ids=torch.tensor(case["probe"])).logits.float().tolist())
print(json.dumps(answers))
"""

CASES: dict[str, tuple[torch.dtype, Precision, dict[str, Any]]] = {
    "bf16": (torch.bfloat16, Precision.BF16, {}),
    "dropout": (torch.float32, Precision.BF16, {"dropout": 0.3}),
    "more modules": (
        torch.float32,
        Precision.BF16,
        {"target_modules": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj")},
    ),
    "nf4": (torch.bfloat16, Precision.NF4, {}),
}

RELATIVE = {torch.float32: 1e-4, torch.bfloat16: 2**-6}
"""Of the largest logit: a few roundings of the dtype."""


def logits(model: PeftModel) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(PROBE)).logits.float()


def test_the_card_s_snippet_computes_in_float32_also_with_a_base_that_is_stored_in_bfloat16(
    tiny_model: Path, tmp_path: Path
) -> None:
    """In bfloat16 plain PEFT does not reach the loss on the card."""
    base = load_base(tiny_model, torch.bfloat16)
    base.save_pretrained(tmp_path / "base")
    save_adapter(attach_adapter(base, Hyperparameters(), "tiny"), tmp_path / "adapter")
    snippet = TEMPLATE.partition("```python\n")[2].partition("```")[0]
    snippet = snippet.format(base=tmp_path / "base")
    made: dict[str, Any] = {}
    exec(snippet.replace("path/of/this/directory", str(tmp_path / "adapter")), made)
    assert isinstance(made["model"], PeftModel)
    assert {each.dtype for each in made["model"].parameters()} == {torch.float32}


@pytest.mark.full
def test_the_adapter_of_every_kind_of_run_loads_in_plain_peft(
    run: Callable[..., Any],
    make_spec: SpecMaker,
    artifacts: Artifacts,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[torch.Tensor] = []

    def noting(model: PeftModel, directory: Path) -> None:
        trained.append(logits(model))
        with model.disable_adapter():
            assert not torch.allclose(logits(model), trained[-1], rtol=0.1)
        save_adapter(model, directory)

    monkeypatch.setattr(segment, "save_adapter", noting)
    cases = []
    for number, (dtype, precision, hyperparameters) in enumerate(CASES.values()):
        monkeypatch.setattr(segment, "choose_dtype", lambda _, dtype=dtype: dtype)
        spec = make_spec(
            {"epochs": 2, "learning_rate": 0.02, **hyperparameters}, precision=precision
        )
        run(spec)
        adapter = tmp_path / "elsewhere" / f"adapter-{number}"
        artifacts.get_directory(spec.adapter_prefix, adapter)
        cases.append(
            {
                "base": str(tiny_model),
                "adapter": str(adapter),
                "dtype": str(dtype).removeprefix("torch."),
                "nf4": precision is Precision.NF4,
                "probe": PROBE,
            }
        )
    alone = subprocess.run(
        [sys.executable, "-I", "-c", ALONE],
        input=json.dumps(cases),
        cwd=tmp_path / "elsewhere",
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answers = json.loads(alone.stdout.splitlines()[-1])
    for (name, (dtype, _, _)), expected, answer in zip(
        CASES.items(), trained, answers, strict=True
    ):
        difference = (torch.tensor(answer) - expected).abs().max() / expected.abs().max()
        assert difference <= RELATIVE[dtype], name
