"""torch's random state in one rank: all that training draws from."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """The states of torch's generators, as bytes: the CPU's, and that of the rank's GPU."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def of(cls, device: torch.device) -> RandomState:
        """The state as it is now: a copy of a few kilobytes, without waiting for the GPU."""
        on_gpu = device.type == "cuda"
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if on_gpu else None)

    def restore(self, device: torch.device) -> None:
        """Draw again what was drawn since; a GPU of which no state is known keeps its own."""
        # Cloned, because torch reads a state from the beginning of its storage.
        torch.set_rng_state(self.cpu.clone())
        if self.cuda is not None and device.type == "cuda":
            torch.cuda.set_rng_state(self.cuda.clone(), device)


def seed_anew(seed: int, step: int, rank: int) -> None:
    """Begin a random state, on every device, that follows from these three alone."""
    torch.manual_seed(Random(f"{seed}:{step}:{rank}").getrandbits(64))
