"""torch's random state in one rank, the only one that training uses."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """The states of torch's generators as bytes, for the CPU and the rank's GPU."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def of(cls, device: torch.device) -> RandomState:
        """Copy the present state, a few kilobytes, without waiting for the GPU."""
        on_gpu = device.type == "cuda"
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if on_gpu else None)

    def restore(self, device: torch.device) -> None:
        """Restore the state; a GPU without a saved state keeps its own."""
        # Cloned, because torch reads a state from the start of its storage.
        torch.set_rng_state(self.cpu.clone())
        if self.cuda is not None and device.type == "cuda":
            torch.cuda.set_rng_state(self.cuda.clone(), device)


def reseed(seed: int, step: int, rank: int) -> None:
    """Seed the generators of all devices from these three numbers."""
    torch.manual_seed(Random(f"{seed}:{step}:{rank}").getrandbits(64))
