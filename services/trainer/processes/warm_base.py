"""A base model and its tokenizer, loaded before a segment needs them."""

from __future__ import annotations

import gc
from pathlib import Path

import psutil
import torch
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from domain.training.precision import Precision
from infrastructure.artifacts.store import Artifacts
from infrastructure.training.warm_start import ExpectedBase
from services.model_libraries import choose_dtype, torch_dtype
from services.trainer.base_files import states
from services.trainer.model import load_base, load_tokenizer
from services.trainer.packing import pack_if_able

MEMORY_SHARE = 0.25
"""Share of the free memory that a warm base model may use."""


class WarmBase:
    """A loaded base model that is kept until a segment takes it."""

    def __init__(self, directory: Path, manifest_sha256: str, dtype: torch.dtype) -> None:
        self._key = (directory, manifest_sha256, dtype)
        # On the CPU even if the segment uses a GPU, because the GPU is not known yet.
        self._files = states(directory)
        base = load_base(directory, dtype)
        pack_if_able(base)  # now, before billed time starts
        self._loaded = (load_tokenizer(directory), base)

    def take(
        self, directory: Path, manifest_sha256: str | None, dtype: torch.dtype, precision: Precision
    ) -> tuple[PreTrainedTokenizerBase, PreTrainedModel] | None:
        """Release the tokenizer and base model. Return them if they are the requested ones."""
        fits = self._key == (directory, manifest_sha256, dtype) and precision is not Precision.NF4
        # Otherwise, the loaded copy may be damaged.
        fits = fits and self._files == states(directory)
        loaded, self._loaded = self._loaded, None
        if fits:
            return loaded
        gc.unfreeze()  # so that the garbage collector can free the base model
        return None


def load_expected(artifacts: Artifacts, base: ExpectedBase) -> WarmBase | None:
    """Load the expected base model.

    Return None if it changed, is too large, or is in a remote store. A remote base model would have
    to be downloaded for a segment that may never start.
    """
    if artifacts.root is None:
        return None
    manifest = artifacts.manifest(base.ref)
    if base.manifest_sha256 != manifest.sha256:
        return None
    if manifest.total_bytes > MEMORY_SHARE * psutil.virtual_memory().available:
        return None
    # CUDA must not be initialized before CUDA_VISIBLE_DEVICES is set.
    if base.dtype is not None:
        dtype = torch_dtype(base.dtype)
    else:
        dtype = torch.bfloat16 if base.on_gpu else choose_dtype(torch.device("cpu"))
    return WarmBase(artifacts.root / base.ref, manifest.sha256, dtype)
