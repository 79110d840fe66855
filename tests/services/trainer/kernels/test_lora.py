"""LoRA's layer compared with its definition and PEFT's layer, and the effect of one rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn

from domain.training.hyperparameters import Hyperparameters
from domain.training.precision import Precision
from services.scheduler.model_card import TEMPLATE
from services.trainer.kernels.lora import Dropout, LoraLinear, dropped_steps
from services.trainer.model import CPU, attach_adapter, load_base, save_adapter

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def adapted(
    directory: Path, dtype=torch.float32, dropout=0.0, precision=Precision.BF16, *, dora=False
):
    """The tiny model with an adapter whose B is not zero."""
    torch.manual_seed(0)
    fields = Hyperparameters(dropout=dropout, target_modules=ALL_LINEAR, use_dora=dora)
    model = attach_adapter(load_base(directory, dtype, CPU, precision), fields, "tiny")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
            if "magnitude" in name:
                parameter *= torch.empty_like(parameter).uniform_(0.8, 1.2)
    return model


def layers(model: nn.Module) -> list[LoraLinear]:
    return [module for module in model.modules() if isinstance(module, LoraLinear)]


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize(
    ("dtype", "precision", "tolerance"),
    [
        (torch.float32, Precision.BF16, 1e-4),
        (torch.bfloat16, Precision.BF16, 2**-6),  # a few roundings
        (torch.float32, Precision.NF4, 1e-4),
    ],
)
def test_plain_peft_gives_the_same_answers(
    tiny_model: Path,
    tmp_path: Path,
    dtype: torch.dtype,
    precision: Precision,
    tolerance: float,
    dora: bool,
):
    model = adapted(tiny_model, dtype, dropout=0.3, precision=precision, dora=dora).eval()
    save_adapter(model, tmp_path)
    plain = PeftModel.from_pretrained(load_base(tiny_model, dtype, CPU, precision), str(tmp_path))
    assert not layers(plain)
    ids = torch.arange(24).view(2, 12)
    expected = model(input_ids=ids).logits
    difference = (plain.eval()(input_ids=ids).logits - expected).abs().max()
    assert difference <= tolerance * expected.abs().max()


def test_the_snippet_of_the_model_card_computes_in_float32(tiny_model: Path, tmp_path: Path):
    """In bfloat16, plain PEFT does not reach the loss on the card."""
    load_base(tiny_model, torch.bfloat16).save_pretrained(tmp_path / "base")
    save_adapter(adapted(tiny_model), tmp_path / "adapter")
    snippet = TEMPLATE.partition("```python\n")[2].partition("```")[0]
    snippet = snippet.format(base=tmp_path / "base")
    variables: dict[str, Any] = {}
    exec(snippet.replace("path/of/this/directory", str(tmp_path / "adapter")), variables)
    assert isinstance(variables["model"], PeftModel)
    assert {each.dtype for each in variables["model"].parameters()} == {torch.float32}


def test_gradients_equal_those_of_the_definition(tiny_model: Path):
    model = adapted(tiny_model, dropout=0.25)
    layer = layers(model)[0]
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    x = torch.randn(2, 8, layer.in_features, requires_grad=True)
    with Dropout(model).drawn(16, torch.float32, CPU):
        assert layer.keep is not None
        kept = layer.keep.view_as(x) / (1 - dropped_steps(layer.lora_dropout["default"]) / 256)
        y = layer(x)
    weight = layer.base_layer.weight
    expected = x @ weight.t() + layer.scaling["default"] * (x * kept) @ a.t() @ b.t()
    torch.testing.assert_close(y, expected)
    gradient = torch.randn_like(y)
    found = torch.autograd.grad(y, (x, a, b), gradient)
    torch.testing.assert_close(found, torch.autograd.grad(expected, (x, a, b), gradient))


def test_gradients_of_dora_equal_those_of_peft(tiny_model: Path):
    model = adapted(tiny_model, dora=True)
    layer = layers(model)[0]
    trained = (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    x = torch.randn(2, 8, layer.in_features, requires_grad=True)
    y, expected = layer(x), super(LoraLinear, layer).forward(x)
    torch.testing.assert_close(y, expected)
    gradient, inputs = torch.randn_like(y), (x, *trained, layer.magnitude("default"))
    found = torch.autograd.grad(y, inputs, gradient)
    torch.testing.assert_close(found, torch.autograd.grad(expected, inputs, gradient))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", [Precision.BF16, Precision.NF4])
def test_a_new_dora_adapter_changes_nothing(
    tiny_model: Path, dtype: torch.dtype, precision: Precision
):
    fields = Hyperparameters(target_modules=ALL_LINEAR, use_dora=True)
    model = attach_adapter(load_base(tiny_model, dtype, CPU, precision), fields, "tiny")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        found = model(input_ids=ids).logits
        with model.disable_adapter():
            expected = model(input_ids=ids).logits
    assert (found - expected).abs().max() <= 0.01 * expected.abs().max()
    for layer in layers(model):
        assert torch.equal(layer.magnitude("default"), layer.norms("default"))


def test_a_small_part_of_the_adapter_survives_bfloat16(tiny_model: Path):
    """PEFT adds it to a rounded sum, where most of it is lost."""
    model = adapted(tiny_model, torch.bfloat16)
    layer = layers(model)[0]
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_(std=1e-4)
    x = torch.randn(4096, layer.in_features, dtype=torch.bfloat16)
    weight = layer.base_layer.weight.float()
    delta = layer.get_delta_weight("default").float()
    exact = x.float() @ (weight + delta).t()
    ours = (layer(x).float() - exact).abs().mean()
    peft = (super(LoraLinear, layer).forward(x).float() - exact).abs().mean()
    assert ours < 0.9 * peft


def test_a_disabled_adapter_gives_the_base(tiny_model: Path):
    model, base = adapted(tiny_model), load_base(tiny_model, torch.float32)
    ids = torch.arange(24).view(2, 12)
    with model.disable_adapter():
        assert torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits)


def test_dropout_has_its_share_and_a_pattern_per_module(tiny_model: Path):
    model = adapted(tiny_model, dropout=0.25)
    with Dropout(model).drawn(500, torch.float32, CPU):
        masks = [layer.keep for layer in layers(model)]
    assert all(layer.keep is None for layer in layers(model))
    same = [mask for mask in masks if mask is not None and len(mask) == 500 * 32]
    assert len(same) > 4
    for mask in same:
        assert mask.unique().tolist() == [0.0, 1.0]
        assert mask.mean().item() == pytest.approx(0.75, abs=0.02)
    # Two independent patterns agree in 0.75 x 0.75 + 0.25 x 0.25 of their elements.
    agreement = (same[0] == same[1]).float().mean().item()
    assert agreement == pytest.approx(0.625, abs=0.02)


def test_dropout_uses_the_random_state_of_the_checkpoint(tiny_model: Path):
    model = adapted(tiny_model, dropout=0.25)
    dropout, state = Dropout(model), torch.get_rng_state()

    def draw() -> torch.Tensor:
        with dropout.drawn(16, torch.float32, CPU):
            keep = layers(model)[3].keep
        assert keep is not None
        return keep

    first, second = draw(), draw()
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(draw(), first)


@pytest.mark.parametrize(
    ("share", "steps"), [(0.0, 0), (0.0019, 1), (0.05, 13), (0.5, 128), (0.999, 255)]
)
def test_dropout_is_a_multiple_of_1_256th(share: float, steps: int):
    assert dropped_steps(nn.Dropout(share)) == steps
    assert dropped_steps(nn.Identity()) == 0
