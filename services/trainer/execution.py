"""The execution mode: all settings that affect the last bits of a loss. A resume keeps them."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from pydantic import BaseModel, ConfigDict
from transformers.modeling_utils import PreTrainedModel

from domain.estimating.footprint import PAD_MULTIPLE
from domain.training.checkpoint import ModeDifference
from infrastructure.process import code_version
from services.trainer.environment import libraries
from services.trainer.failures import is_out_of_memory
from services.trainer.kernels.attention import NAME as PACKED
from services.trainer.processes.ranks import Ranks

COMPUTING = ("torch", "transformers", "bitsandbytes")

NUMERICS = 1
"""Version of the numerics. Increment it in each release that computes different bits."""


class ExecutionMode(BaseModel):
    """Settings under which a step is bit-reproducible. Defaults apply to unrecorded values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: str  # dtype of the base model; if it is in 4 bits, of computations
    threads: int  # torch threads per rank; affects the order of addition
    ranks: int = 1
    device: str | None = None  # cpu or cuda
    code: str | None = None  # version and revision of EcoLink
    libraries: str | None = None  # names and versions of the numerical libraries
    processor: str | None = None  # libraries choose kernels by processor
    pad_multiple: int = 8  # row lengths are rounded up to a multiple of this
    attention: str | None = None  # transformers' name; None: the base model's default
    compiled: bool = False  # False: eager
    deterministic: bool = False  # torch's setting; only needed on a GPU
    split: int = 1  # number of parts into which each approved micro-batch is split
    numerics: int = 0

    @classmethod
    def of_machine(
        cls, dtype: torch.dtype, ranks: Ranks, *, compiled: bool, split: int
    ) -> ExecutionMode:
        """Return the mode of a job that starts on this machine."""
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
        """Return the saved mode, as far as this machine's cores and compiler support it."""
        enough = saved.threads * self.ranks <= len(os.sched_getaffinity(0))
        return self.model_copy(
            update={
                "dtype": saved.dtype,
                "threads": saved.threads if enough else self.threads,
                "attention": saved.attention if saved.device == self.device else None,
                "compiled": self.compiled and saved.compiled,
            }
        )

    def set_threads(self) -> None:
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)

    def set_attention(self, base: PreTrainedModel) -> ExecutionMode:
        """Set the base model's attention as recorded, if `pack_if_able` has not packed it."""
        own = base.config._attn_implementation
        if self.attention in (None, PACKED):
            return self.model_copy(update={"attention": own})
        if self.attention != own:
            base.set_attn_implementation(self.attention)
        return self

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def differences(self, saved: ExecutionMode) -> tuple[ModeDifference, ...]:
        """Return the settings that differ from the saved mode, or a non-deterministic GPU."""
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
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capabilities = torch.cpu.get_capabilities()
    matrices = " AMX" if capabilities.get("amx_tile", False) else ""
    name = capabilities.get("cpu_name", "CPU")
    return f"{name} {torch.backends.cpu.get_cpu_capability()}{matrices}"


def make_deterministic(rehearse: Callable[[int, int], None]) -> str | None:
    """Make the operators of a GPU deterministic. Return None, or the reason if that fails.

    `rehearse` runs a micro-batch (rows, tokens) forward and backward. torch must raise errors for
    nondeterministic operators: with warnings only, the backward pass of attention still uses
    atomics. Source: PyTorch's notes on reproducibility. `services/model_libraries.py` configures
    cuBLAS.
    """
    # No code reads uninitialized memory, so torch need not fill it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.use_deterministic_algorithms(True)
    try:
        rehearse(1, 2 * PAD_MULTIPLE)
    except RuntimeError as error:
        if is_out_of_memory(error) or "determinis" not in str(error):
            raise
        torch.use_deterministic_algorithms(False)
        return str(error)
    return None
