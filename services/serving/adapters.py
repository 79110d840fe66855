"""LoRA adapters in PEFT's format: read them, add them to a base model, and remove them."""

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
from services.serving.multi_lora import MultiLoraLinear, TokenAdapters, weight_of
from services.serving.resource_exhaustion import is_resource_exhaustion

CONFIG = "adapter_config.json"
PLAIN = {
    "lora_bias": False,
    "modules_to_save": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "layer_replication": None,
    "alora_invocation_tokens": None,
    "bias": "none",
}
"""Required values of an adapter's configuration keys. A key may be absent."""


@dataclass(frozen=True)
class Adapter:
    """The configuration and weights of an adapter."""

    config: LoraConfig
    weights: dict[str, Tensor]


def read_adapter(directory: Path) -> Adapter:
    """Return the adapter in a directory. Raise CannotServe if it is not plain LoRA."""
    try:
        config_json = json.loads((directory / CONFIG).read_bytes())
        if config_json.get("peft_type") != "LORA":
            raise CannotServe("unsupported_adapter", f"Its type is {config_json.get('peft_type')}.")
        config = LoraConfig.from_pretrained(str(directory))
        weights = load_peft_weights(str(directory), device="cpu")
    except (OSError, ValueError, SafetensorError) as error:
        if is_resource_exhaustion(error):
            raise
        raise CannotServe("adapter_unreadable") from error
    assert isinstance(config, LoraConfig)
    for name, plain in PLAIN.items():
        if getattr(config, name, plain) not in (plain, [], {}):
            raise CannotServe("unsupported_adapter", f"It uses {name}.")
    config.inference_mode = True
    config._register_custom_module({nn.Linear: MultiLoraLinear})
    return Adapter(config, weights)


def add_adapter(
    base: PreTrainedModel, name: str, adapter: Adapter, token_adapters: TokenAdapters
) -> None:
    """Add an adapter to a base model, or raise CannotServe and leave that unchanged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns about several adapters
            inject_adapter_in_model(adapter.config, base, name, low_cpu_mem_usage=True)
        adapted = [module for module in _adapted(base) if name in module.r]
        layers = [module for module in adapted if isinstance(module, MultiLoraLinear)]
        if layers != adapted:
            raise CannotServe("unsupported_adapter", "It adapts more than linear layers.")
        loaded = set_peft_model_state_dict(base, adapter.weights, name, low_cpu_mem_usage=True)
        if loaded.unexpected_keys:
            unknown = loaded.unexpected_keys[0]
            raise CannotServe("adapter_mismatch", f"The base model has no module for {unknown}.")
        for layer in layers:
            weight = weight_of(layer.get_base_layer())
            parts = [layer.lora_A[name], layer.lora_B[name]]
            if has_magnitudes := name in layer.lora_magnitude_vector:
                parts.append(layer.lora_magnitude_vector[name])
            if any(part.weight.is_meta for part in parts):
                raise CannotServe("adapter_mismatch", "It lacks the weights of a layer.")
            for part in parts:
                part.to(device=weight.device)
            if has_magnitudes:  # from unrounded matrices, like the trainer
                layer.divide_magnitudes(name)
            for part in parts[:2]:
                part.to(dtype=weight.dtype)
            _require_numbers(layer, name)
    except Exception as error:
        remove_adapter(base, name, token_adapters)
        if not isinstance(error, (ValueError, RuntimeError, TypeError)) or is_resource_exhaustion(
            error
        ):
            raise
        raise CannotServe("adapter_mismatch") from error
    for layer in layers:
        layer.token_adapters = token_adapters
    _forget_stacked(base, token_adapters)


def remove_adapter(base: PreTrainedModel, name: str, token_adapters: TokenAdapters) -> None:
    """Remove an adapter from a base model, if the base model has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns because no adapter is active
        for module in _adapted(base):
            module.delete_adapter(name)
    getattr(base, "peft_config", {}).pop(name, None)
    _forget_stacked(base, token_adapters)


def _forget_stacked(base: nn.Module, token_adapters: TokenAdapters) -> None:
    """Drop the stacked weights. The next step that needs them stacks them again."""
    token_adapters.forget()
    for module in _adapted(base):
        if isinstance(module, MultiLoraLinear):
            module.forget()


def _require_numbers(layer: MultiLoraLinear, name: str) -> None:
    """Raise CannotServe for non-finite weights, which would corrupt other answers in a step."""
    a, b = weight_of(layer.lora_A[name]), weight_of(layer.lora_B[name])
    tensors = [a, b * layer.scaling[name]]
    if name in layer.lora_magnitude_vector:
        tensors.append(weight_of(layer.lora_magnitude_vector[name]))
    if not all(each.isfinite().all() for each in tensors):
        raise CannotServe("adapter_not_finite")


def _adapted(base: nn.Module) -> list[LoraLayer]:
    return [module for module in base.modules() if isinstance(module, LoraLayer)]
