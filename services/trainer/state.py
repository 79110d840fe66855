"""The mutable state of training, with operations to copy, hash, store and restore it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from domain.training.checkpoint import StateHashes
from services.trainer.processes.ranks import Ranks
from services.trainer.tensor_file import TensorFile

WEIGHTS = "adapter_model.safetensors"  # PEFT's name of the file
FILES = (WEIGHTS, "optimizer.safetensors", "random.safetensors")
WEIGHTS_METADATA = {"format": "pt"}  # as PEFT writes it
GROUPS = "param_groups"


@dataclass(frozen=True)
class RandomState:
    """The states of torch's generators in one rank, as bytes. Training uses no other generator."""

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


@dataclass(frozen=True)
class TrainingState:
    """Weights of the adapter, state of the optimizer, and all ranks' random states, on the CPU."""

    weights: TensorFile  # keyed by PEFT's names
    optimizer: TensorFile  # keyed like `3.exp_avg`, with the groups as JSON
    random: TensorFile  # by generator, one row per rank

    @classmethod
    def of(cls, model: PeftModel, optimizer: torch.optim.Optimizer, ranks: Ranks) -> TrainingState:
        """Copy the live state. All ranks must call this together."""
        return LiveState(model, optimizer).copied(random_states(ranks))

    @classmethod
    def read(cls, directory: Path) -> TrainingState:
        return cls(*(TensorFile.read(directory / name) for name in FILES))

    def write(self, directory: Path) -> dict[str, str]:
        """Write the files of a checkpoint's directory. Return their SHA-256 hashes."""
        parts = dict(zip(FILES, (self.weights, self.optimizer, self.random), strict=True))
        for name, part in parts.items():
            part.write(directory / name)
        return {name: part.sha256 for name, part in parts.items()}

    def hashes(self, position: str) -> StateHashes:
        """Return the SHA-256 hash of each part's file, with the given hash of the data position."""
        return StateHashes(
            weights=self.weights.sha256,
            optimizer=self.optimizer.sha256,
            random=self.random.sha256,
            position=position,
        )

    def restore(self, model: PeftModel, optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
        """Restore the live state. A rank without a saved random state keeps its own.

        Raise KeyError, TypeError or ValueError if the state is that of another model or optimizer.
        """
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in self.optimizer.tensors.items():
            number, _, name = key.partition(".")
            moments.setdefault(int(number), {})[name] = tensor.clone()
        groups = [
            # JSON has no tuples. Among the options, only betas is a tuple.
            {key: tuple(value) if key == "betas" else value for key, value in group.items()}
            for group in json.loads(self.optimizer.metadata[GROUPS])
        ]
        set_peft_model_state_dict(model, self.weights.tensors)
        optimizer.load_state_dict({"state": moments, GROUPS: groups})
        rows, cuda_rows = self.random.tensors["rng"], self.random.tensors.get("rng_cuda")
        if ranks.rank < len(rows):
            cuda = None if cuda_rows is None else cuda_rows[ranks.rank]
            RandomState(rows[ranks.rank], cuda).restore(ranks.device)


class LiveState:
    """The tensors that training changes. They keep their storage after the first step."""

    def __init__(self, model: PeftModel, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._weights = get_peft_model_state_dict(model, trained, save_embedding_layers=False)
        self._moments = {
            f"{number}.{name}": tensor
            for number, own in optimizer.state_dict()["state"].items()
            for name, tensor in own.items()
        }

    def copied(
        self, random: dict[str, Tensor], reused: TrainingState | None = None
    ) -> TrainingState:
        """Return a copy with all ranks' random states, in the memory of `reused`, if any."""
        groups = {GROUPS: json.dumps(self._optimizer.state_dict()[GROUPS])}
        rows = TensorFile.of(random, {})
        if reused is None:
            weights = TensorFile.of(self._weights, WEIGHTS_METADATA)
            return TrainingState(weights, TensorFile.of(self._moments, groups), rows)
        return TrainingState(
            reused.weights.overwritten(self._weights, WEIGHTS_METADATA),
            reused.optimizer.overwritten(self._moments, groups),
            rows,
        )


def random_states(ranks: Ranks) -> dict[str, Tensor]:
    """Return torch's random states, one row per rank. All ranks must call this together."""
    mine = RandomState.of(ranks.device)
    states = {"rng": ranks.gather(mine.cpu)}
    if mine.cuda is not None:
        states["rng_cuda"] = ranks.gather(mine.cuda)
    return states
