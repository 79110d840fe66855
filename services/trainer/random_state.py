"""torch's random state in one rank. Training uses no other generator."""

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
        """Copy the current state, a few kilobytes, without waiting for the GPU."""
        on_gpu = device.type == "cuda"
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if on_gpu else None)

    def restore(self, device: torch.device) -> None:
        """Restore the state. A GPU without a saved state keeps its own."""
        # Cloned, because torch reads from the start of the storage, not of the view.
        torch.set_rng_state(self.cpu.clone())
        if self.cuda is not None and device.type == "cuda":
            torch.cuda.set_rng_state(self.cuda.clone(), device)


def reseed(seed: int, step: int, rank: int) -> None:
    """Seed the generators of all devices from the seed, step and rank."""
    torch.manual_seed(Random(f"{seed}:{step}:{rank}").getrandbits(64))
