"""The execution mode: all settings that change the last bits of a loss, kept on resume."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from pydantic import BaseModel, ConfigDict
from transformers.modeling_utils import PreTrainedModel

from domain.estimating.footprint import PAD_MULTIPLE
from domain.training.checkpoint import ModeDifference
from infrastructure import code_version
from services.trainer.environment import libraries
from services.trainer.failures import is_out_of_memory
from services.trainer.kernels.attention import NAME as PACKED
from services.trainer.processes.ranks import Ranks

COMPUTING = ("torch", "transformers", "bitsandbytes")

NUMERICS = 1
"""Raised with each release whose LoRA layer, dropout, attention, loss or batching computes
other bits, so that a resumed job reports the difference."""


class ExecutionMode(BaseModel):
    """Settings under which a step gives the same bits; defaults stand for unrecorded values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: str  # of the base, or of its computation if it is in 4 bits
    threads: int  # of torch, in each rank; another number may add in another order
    ranks: int = 1
    device: str | None = None  # cpu or cuda
    code: str | None = None  # version and revision of EcoLink
    libraries: str | None = None  # names and versions of those that compute
    processor: str | None = None  # by which libraries choose their kernels
    pad_multiple: int = 8  # of a micro batch's length
    attention: str | None = None  # transformers' name; None: the base's own choice
    compiled: bool = False  # else eager
    deterministic: bool = False  # torch's setting, which only a GPU needs
    split: int = 1  # parts of each approved micro-batch
    numerics: int = 0

    @classmethod
    def natural(
        cls, dtype: torch.dtype, ranks: Ranks, *, compiled: bool, split: int
    ) -> ExecutionMode:
        """The mode of a job that starts on this machine."""
        return cls(
            dtype=str(dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
            ranks=ranks.count,
            device=ranks.device.type,
            code=code_version.in_words(),
            libraries=libraries(COMPUTING),
            processor=_processor(ranks.device),
            pad_multiple=PAD_MULTIPLE,
            compiled=compiled,
            split=split,
            numerics=NUMERICS,
        )

    def continuing(self, saved: ExecutionMode) -> ExecutionMode:
        """The saved mode, as far as this machine has the cores and the compiler for it."""
        enough = saved.threads * self.ranks <= len(os.sched_getaffinity(0))
        return self.model_copy(
            update={
                "dtype": saved.dtype,
                "threads": saved.threads if enough else self.threads,
                "attention": saved.attention if saved.device == self.device else None,
                "compiled": self.compiled and saved.compiled,
            }
        )

    def take_effect(self) -> None:
        """Set the number of torch's threads."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)

    def on(self, base: PreTrainedModel) -> ExecutionMode:
        """Set the base's attention as recorded; return the mode with its attention.

        Packed attention is not set here, because it needs a test of the base.
        """
        own = base.config._attn_implementation
        if self.attention in (None, PACKED):
            return self.model_copy(update={"attention": own})
        if self.attention != own:
            base.set_attn_implementation(self.attention)
        return self

    @property
    def torch_dtype(self) -> torch.dtype:
        """The mode's dtype."""
        return getattr(torch, self.dtype)

    def differences(self, saved: ExecutionMode) -> tuple[ModeDifference, ...]:
        """Recorded settings in which this mode differs from the saved one.

        A GPU without a fixed order of addition always counts as a difference.
        """
        found = {
            name: (before, now)
            for name in type(self).model_fields
            if (before := getattr(saved, name)) not in (None, now := getattr(self, name))
        }
        if self.device == "cuda" and not self.deterministic:
            found["deterministic"] = (saved.deterministic, self.deterministic)
        return tuple(
            ModeDifference(setting=name, saved=str(before), now=str(now))
            for name, (before, now) in found.items()
        )


def _processor(device: torch.device) -> str:
    """The name of the GPU, or of the CPU with the instruction sets that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capabilities = torch.cpu.get_capabilities()
    matrices = " AMX" if capabilities.get("amx_tile", False) else ""
    name = capabilities.get("cpu_name", "CPU")
    return f"{name} {torch.backends.cpu.get_cpu_capability()}{matrices}"


def make_deterministic(practise: Callable[[], None]) -> str | None:
    """Make a GPU's operators add in a fixed order; return None, or why they cannot.

    `practise` runs a micro-batch forward and backward. Attention's backward pass uses atomics
    unless torch raises errors for nondeterministic operators; warnings are not enough. Source:
    PyTorch's notes on reproducibility. `services/model_libraries.py` has cuBLAS's setting.
    """
    # Nothing reads uninitialised memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.use_deterministic_algorithms(True)
    try:
        practise()
    except RuntimeError as error:
        if is_out_of_memory(error) or "determinis" not in str(error):
            raise
        torch.use_deterministic_algorithms(False)
        return str(error)
    return None
