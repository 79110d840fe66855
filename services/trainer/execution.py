"""How a segment computes: all that changes the last bits of a loss, and is kept on resume."""

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
"""Raised with each release whose LoRA layer, dropout, attention, loss or cut of a step computes
other bits than the one before: what cannot be kept on resume is at least said."""


class ExecutionMode(BaseModel):
    """Settings under which a step gives the same bits; defaults are for what was not recorded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: str  # of the base, or computed in
    threads: int  # of torch's own, in each rank; another number may sum in another order
    ranks: int = 1
    device: str | None = None  # kind of it
    code: str | None = None  # EcoLink's own, by version and revision
    libraries: str | None = None  # that compute, with their versions
    processor: str | None = None  # by which they choose their kernels
    pad_multiple: int = 8  # of a micro batch's length
    attention: str | None = None  # transformers' name of it; None: the base's own choice
    compiled: bool = False  # else eager
    deterministic: bool = False  # torch's setting, for a GPU: a CPU adds in one order without it
    split: int = 1  # parts that the approved micro batch is cut into
    numerics: int = 0

    @classmethod
    def natural(
        cls, dtype: torch.dtype, ranks: Ranks, *, compiled: bool, split: int
    ) -> ExecutionMode:
        """How a job would compute on this machine if it began here."""
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
        """The saved mode, as far as this machine can: it has to have the cores and the compiler."""
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
        """Set what is set for the whole process."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)

    def on(self, base: PreTrainedModel) -> ExecutionMode:
        """Have the base attend as recorded; returns the mode with what it does.

        Attention over packed examples is for a base that was found able to have it.
        """
        own = base.config._attn_implementation
        if self.attention in (None, PACKED):
            return self.model_copy(update={"attention": own})
        if self.attention != own:
            base.set_attn_implementation(self.attention)
        return self

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of this name."""
        return getattr(torch, self.dtype)

    def differences(self, saved: ExecutionMode) -> tuple[ModeDifference, ...]:
        """Settings in which this mode is not the saved one, as far as that was recorded.

        Where a GPU adds in another order each time, that is one, whatever was recorded.
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
    """A GPU's name; a CPU's, with the instructions that torch uses of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capabilities = torch.cpu.get_capabilities()
    matrices = " AMX" if capabilities.get("amx_tile", False) else ""
    name = capabilities.get("cpu_name", "CPU")
    return f"{name} {torch.backends.cpu.get_cpu_capability()}{matrices}"


def make_deterministic(practise: Callable[[], None]) -> str | None:
    """Have a GPU's operators add in one order each time; None, or why they cannot.

    `practise` runs a micro batch there and back. Attention's backward pass adds by atomics unless
    torch refuses what it cannot do in one order: with warnings alone it goes on as before. Source:
    PyTorch's notes on reproducibility. cuBLAS needs a setting of its own, which the process has
    from its start (`services/model_libraries.py`).
    """
    # Nothing here reads such memory.
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
