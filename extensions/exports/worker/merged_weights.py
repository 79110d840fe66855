"""The weights of a base model with its adapter merged, one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from torch import Tensor, nn

ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_INDEX = "model.safetensors.index.json"
PREFIX = "base_model.model."
"""Prefix of the names in an adapter in PEFT's format."""

WEIGHT = ".weight"
ADAPTER = "default"

PARTS = ("lora_A", "lora_B", "lora_magnitude_vector")
"""Kinds of tensors in an adapter. The last one is part of DoRA."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of tensors by their names in a safetensors file."""


class CannotMerge(Exception):
    """The adapter does not fit the base model, or the result is not finite."""


@contextmanager
def _untrusted() -> Generator[None]:
    """Raise CannotMerge if a library cannot use the adapter, which its trainer may have forged."""
    try:
        yield
    except (CannotMerge, MemoryError, OSError):
        raise
    except Exception as error:
        raise CannotMerge(f"The adapter is invalid ({type(error).__name__}).") from error


@dataclass(frozen=True)
class TensorShape:
    """The name, shape and type of a tensor in a file."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class MergedWeights:
    """The tensors of a base model, with PEFT's merge applied to those that the adapter targets.

    PEFT's own layer merges each tensor alone, so the result equals that of `merge_and_unload` bit
    for bit, and memory holds one tensor. Tensors keep the type of the base model.
    """

    def __init__(self, base: Path, adapter: Path) -> None:
        self._base = base
        self._file_of = _files(base)
        self._adapter = adapter / ADAPTER_WEIGHTS
        with _untrusted():
            config = LoraConfig.from_pretrained(str(adapter))
            self._parts = _parts(self._adapter)
        if not isinstance(config, LoraConfig):
            raise CannotMerge("The adapter is not a LoRA adapter.")
        self._config = config
        unknown = sorted(self._parts.keys() - {each.removesuffix(WEIGHT) for each in self._file_of})
        if unknown or not self._parts:
            raise CannotMerge(
                f"The adapter changes {unknown[0]}, which the base model lacks."
                if unknown
                else "The adapter changes nothing."
            )

    def shapes(self) -> list[TensorShape]:
        """Return all tensors in the order of their names."""
        found: list[TensorShape] = []
        for file, names in self._by_file().items():
            with safe_open(self._base / file, framework="pt") as opened:
                for name in names:
                    part = opened.get_slice(name)
                    dtype = DTYPES[part.get_dtype()]
                    found.append(TensorShape(name, tuple(part.get_shape()), dtype))
        return sorted(found, key=lambda each: each.name)

    def tensor(self, name: str) -> Tensor:
        """Return one tensor, merged if the adapter changes it, or raise CannotMerge."""
        with safe_open(self._base / self._file_of[name], framework="pt") as opened:
            weight = opened.get_tensor(name).clone()  # otherwise, it keeps the whole file mapped
        module = name.removesuffix(WEIGHT)
        if module in self._parts and name.endswith(WEIGHT):
            return self._merge(module, weight)
        return weight

    def tensors(self, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield tensors by name, one after the other."""
        for name in names:
            yield name, self.tensor(name)

    def _merge(self, module: str, weight: Tensor) -> Tensor:
        outputs, inputs = weight.shape
        linear = nn.Linear(inputs, outputs, bias=False, device="meta", dtype=weight.dtype)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        holder = nn.Module()
        holder.add_module("target", linear)
        with _untrusted():
            inject_adapter_in_model(self._config_of(module), holder, ADAPTER)
            layer = holder.get_submodule("target")
            assert isinstance(layer, LoraLayer)
            self._fill(module, layer)
            layer.merge(safe_merge=False)  # type: ignore[operator]
        merged = layer.get_base_layer().weight.data
        assert isinstance(merged, Tensor)
        if not torch.isfinite(merged).all():
            raise CannotMerge(f"The merged weights of {module} are not finite.")
        return merged

    def _config_of(self, module: str) -> LoraConfig:
        """Return the adapter's configuration for one module that is named `target`."""
        config = copy(self._config)
        config.target_modules = ["target"]
        rank = _matching(self._config.rank_pattern, module)
        alpha = _matching(self._config.alpha_pattern, module)
        config.rank_pattern = {} if rank is None else {"target": rank}
        config.alpha_pattern = {} if alpha is None else {"target": alpha}
        config.layers_to_transform = None
        config.exclude_modules = None
        config.modules_to_save = None
        config.inference_mode = True
        config.init_lora_weights = True
        return config

    def _fill(self, module: str, layer: LoraLayer) -> None:
        with safe_open(self._adapter, framework="pt") as opened, torch.no_grad():
            for part, name in self._parts[module].items():
                value = opened.get_tensor(name)
                owner = getattr(layer, part)[ADAPTER]
                target = owner if isinstance(owner, Tensor) else owner.weight
                if target.shape != value.shape:
                    raise CannotMerge(
                        f"{name} of the adapter has the shape {tuple(value.shape)}, not "
                        f"{tuple(target.shape)}."
                    )
                target.data = value

    def _by_file(self) -> dict[str, list[str]]:
        files: dict[str, list[str]] = {}
        for name, file in self._file_of.items():
            files.setdefault(file, []).append(name)
        return files


def _files(base: Path) -> dict[str, str]:
    index = base / BASE_INDEX
    if index.exists():
        return json.loads(index.read_bytes())["weight_map"]
    with safe_open(base / "model.safetensors", framework="pt") as opened:
        return dict.fromkeys(opened.keys(), "model.safetensors")


def _parts(adapter: Path) -> dict[str, dict[str, str]]:
    """Return the adapter's tensors by module and kind, such as lora_A, or raise CannotMerge."""
    found: dict[str, dict[str, str]] = {}
    with safe_open(adapter, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118  # the file is no mapping
            module, _, part = name.removesuffix(WEIGHT).rpartition(".")
            if not name.startswith(PREFIX) or part not in PARTS:
                raise CannotMerge(f"EcoLink cannot merge the tensor {name} of the adapter.")
            found.setdefault(module.removeprefix(PREFIX), {})[part] = name
    return found


def _matching(pattern: Mapping[str, int] | None, module: str) -> int | None:
    """Return the value of a module in a pattern of PEFT, or None."""
    known = pattern or {}
    return known.get(get_pattern_key(list(known), module))
