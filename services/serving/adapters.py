"""LoRA adapters as plain PEFT saves them: read from disk, put on a base, and taken off again."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import LoraLayer
from peft.utils.save_and_load import load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from services.serving.deployed import CannotServe
from services.serving.multi_lora import MixedLinear, Mixing, weight_of
from services.serving.resource_exhaustion import is_shortage

CONFIG = "adapter_config.json"
PLAIN = {
    "use_dora": False,
    "lora_bias": False,
    "modules_to_save": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "layer_replication": None,
    "alora_invocation_tokens": None,
    "bias": "none",
}
"""What an adapter's configuration must say, if it says it, for its layers to be mixed."""


@dataclass(frozen=True)
class Adapter:
    """What an adapter's directory holds."""

    config: LoraConfig
    weights: dict[str, Tensor]


def read_adapter(directory: Path) -> Adapter:
    """Read an adapter; raises CannotServe for what is no plain LoRA."""
    try:
        said = json.loads((directory / CONFIG).read_bytes())
        if said.get("peft_type") != "LORA":
            raise CannotServe("unsupported_adapter", f"It is {said.get('peft_type')}.")
        config = LoraConfig.from_pretrained(str(directory))
        weights = load_peft_weights(str(directory), device="cpu")
    except (OSError, ValueError, SafetensorError) as error:
        if is_shortage(error):
            raise
        raise CannotServe("adapter_unreadable") from error
    assert isinstance(config, LoraConfig)
    for name, plain in PLAIN.items():
        if getattr(config, name, plain) not in (plain, [], {}):
            raise CannotServe("unsupported_adapter", f"It has {name}.")
    config.inference_mode = True
    config._register_custom_module({nn.Linear: MixedLinear})
    return Adapter(config, weights)


def put_on(base: PreTrainedModel, name: str, adapter: Adapter, mixing: Mixing) -> None:
    """Put an adapter on a base, under a name; raises CannotServe, and leaves the base as it was."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there are several adapters, which is the point
            inject_adapter_in_model(adapter.config, base, name, low_cpu_mem_usage=True)
        adapted = [module for module in _adapted(base) if name in module.r]
        layers = [module for module in adapted if isinstance(module, MixedLinear)]
        if layers != adapted:
            raise CannotServe("unsupported_adapter", "It adapts more than linear layers.")
        loaded = set_peft_model_state_dict(base, adapter.weights, name, low_cpu_mem_usage=True)
        if loaded.unexpected_keys:
            unknown = loaded.unexpected_keys[0]
            raise CannotServe("adapter_mismatch", f"The base has no place for {unknown}.")
        for layer in layers:
            weight = weight_of(layer.get_base_layer())
            for part in (layer.lora_A[name], layer.lora_B[name]):
                if part.weight.is_meta:
                    raise CannotServe("adapter_mismatch", "It lacks weights of a layer.")
                part.to(device=weight.device, dtype=weight.dtype)
            _require_numbers(layer, name)
    except Exception as error:
        take_off(base, name, mixing)
        if not isinstance(error, (ValueError, RuntimeError, TypeError)) or is_shortage(error):
            raise
        raise CannotServe("adapter_mismatch") from error
    for layer in layers:
        layer.mixing = mixing
    _forget_stacked(base, mixing)


def take_off(base: PreTrainedModel, name: str, mixing: Mixing) -> None:
    """Remove an adapter from a base; one that is not there is not missed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that another adapter is active now: none ever is
        for module in _adapted(base):
            module.delete_adapter(name)
    getattr(base, "peft_config", {}).pop(name, None)
    _forget_stacked(base, mixing)


def _forget_stacked(base: nn.Module, mixing: Mixing) -> None:
    """Stack anew at the next step that needs it: layers without one would keep what they had."""
    mixing.forget()
    for module in _adapted(base):
        if isinstance(module, MixedLinear):
            module.forget()


def _require_numbers(layer: MixedLinear, name: str) -> None:
    """Raise CannotServe for weights that would spoil the answers of others in the same step."""
    a, b = weight_of(layer.lora_A[name]), weight_of(layer.lora_B[name])
    if not (a.isfinite().all() and (b * layer.scaling[name]).isfinite().all()):
        raise CannotServe("adapter_not_finite")


def _adapted(base: nn.Module) -> list[LoraLayer]:
    return [module for module in base.modules() if isinstance(module, LoraLayer)]
