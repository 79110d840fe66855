"""The software and hardware of this process, recorded as provenance of its adapters."""

from __future__ import annotations

import platform
from collections.abc import Collection
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

import torch
from peft import PeftModel

from infrastructure.code_version import package_version, revision
from infrastructure.training_environment import TrainingEnvironment

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")


def environment_of(model: PeftModel) -> TrainingEnvironment:
    """Return the environment in which a model is trained."""
    weight = model.get_input_embeddings().weight  # never quantized: has the computation's dtype
    assert isinstance(weight, torch.Tensor)
    cuda = weight.device.type == "cuda"
    return TrainingEnvironment(
        version=package_version(),
        revision=revision(),
        python=platform.python_version(),
        libraries=dict(_versions()),
        device=torch.cuda.get_device_name(weight.device) if cuda else weight.device.type,
        dtype=str(weight.dtype).removeprefix("torch."),
    )


def libraries(names: Collection[str]) -> str:
    """Return the names and versions of the given libraries that are installed."""
    there = (f"{name} {version}" for name, version in _versions() if name in names and version)
    return ", ".join(there)


@lru_cache
def _versions() -> tuple[tuple[str, str | None], ...]:
    return tuple((library, _version(library)) for library in LIBRARIES)


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
