"""A base model and its tokenizer that are in memory before a segment asks for them."""

from __future__ import annotations

import gc
from pathlib import Path

import psutil
import torch
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from domain.training.precision import Precision
from infrastructure.artifacts import Artifacts
from infrastructure.warm_start import ExpectedBase
from services.model_libraries import choose_dtype, torch_dtype
from services.trainer.base_files import states
from services.trainer.model import load_base, load_tokenizer
from services.trainer.packing import pack_if_able

MEMORY_SHARE = 0.25
"""Of the free memory, what a base may take that perhaps nobody will train."""


class WarmBase:
    """Held until a segment takes it; one that it does not fit loads its own."""

    def __init__(self, directory: Path, manifest_sha256: str, dtype: torch.dtype) -> None:
        self._key = (directory, manifest_sha256, dtype)
        # On the CPU, also for a segment on a GPU: which GPU is not known yet.
        self._files = states(directory)
        base = load_base(directory, dtype)
        pack_if_able(base)  # tried now, it costs no segment its time
        self._loaded = (load_tokenizer(directory), base)

    def take(
        self,
        directory: Path,
        manifest_sha256: str | None,
        dtype: torch.dtype,
        precision: Precision,
    ) -> tuple[PreTrainedTokenizerBase, PreTrainedModel] | None:
        """Tokenizer and base model as a load would give them, or None if they are others.

        Either way it holds them no longer.
        """
        fits = self._key == (directory, manifest_sha256, dtype) and precision is not Precision.NF4
        fits = fits and self._files == states(directory)  # what it holds may be what was damaged
        loaded, self._loaded = self._loaded, None
        if fits:
            return loaded
        gc.unfreeze()  # what is dropped may be collected
        return None


def expected(artifacts: Artifacts, base: ExpectedBase) -> WarmBase | None:
    """Load the base that is expected; None if it is another by now, or too large, or remote.

    A remote store's base would be copied to this machine, for a segment that may never come.
    Raises what reading a base raises.
    """
    manifest = artifacts.manifest(base.ref)
    if base.manifest_sha256 != manifest.sha256 or artifacts.root is None:
        return None
    if manifest.total_bytes > MEMORY_SHARE * psutil.virtual_memory().available:
        return None
    # CUDA must not be asked what it can before it is told which GPUs to see.
    if base.dtype is not None:
        dtype = torch_dtype(base.dtype)
    else:
        dtype = torch.bfloat16 if base.on_gpu else choose_dtype(torch.device("cpu"))
    return WarmBase(artifacts.root / base.ref, manifest.sha256, dtype)
