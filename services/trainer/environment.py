"""The software and hardware of this process, recorded as provenance of its adapters."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from functools import lru_cache
from importlib import metadata

import torch
from peft import PeftModel

from infrastructure.process.code_version import package_version, revision
from infrastructure.training.environment import TrainingEnvironment

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")


def environment_of(model: PeftModel) -> TrainingEnvironment:
    # Never quantized, so it has the dtype of computations.
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    cuda = weight.device.type == "cuda"
    return TrainingEnvironment(
        version=package_version(),
        revision=revision(),
        python=platform.python_version(),
        libraries={library: _version(library) for library in LIBRARIES},
        device=torch.cuda.get_device_name(weight.device) if cuda else weight.device.type,
        dtype=str(weight.dtype).removeprefix("torch."),
    )


def libraries(names: Iterable[str]) -> str:
    """Return the names and versions of those of the given libraries that are installed."""
    return ", ".join(f"{name} {version}" for name in names if (version := _version(name)))


@lru_cache
def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
