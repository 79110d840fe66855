"""The state that training changes: copied in a moment, hashed, and put back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from domain.checkpoint import StateHashes
from services.trainer.random_state import RandomState
from services.trainer.ranks import Ranks


@dataclass(frozen=True)
class TrainingState:
    """Adapter weights, the optimizer's state and every rank's random state, on the CPU."""

    weights: dict[str, Tensor]  # by parameter
    optimizer: dict[str, Any]  # as its state_dict
    random: dict[str, Tensor]  # by generator, a row for each rank

    @classmethod
    def of(cls, model: PeftModel, optimizer: torch.optim.Optimizer, ranks: Ranks) -> TrainingState:
        """A copy of the live state; all ranks take it together."""
        weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        return cls(_copied(weights), _copied(optimizer.state_dict()), random_states(ranks))

    def hashes(self, position: str) -> StateHashes:
        """sha256 of each part; that of the data position is given."""
        return StateHashes(
            weights=_sha256(self.weights),
            optimizer=_sha256(self.optimizer),
            random=_sha256(self.random),
            position=position,
        )

    def put_back(self, model: PeftModel, optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
        """Make the live state this one again."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in self.weights:
                    parameter.copy_(self.weights[name])
        optimizer.load_state_dict(self.optimizer)
        restore_random(self.random, ranks)


def random_states(ranks: Ranks) -> dict[str, Tensor]:
    """torch's random states, a row for each rank; nothing else is drawn from during training."""
    mine = RandomState.of(ranks.device)
    states = {"rng": ranks.gather(mine.cpu)}
    if mine.cuda is not None:
        states["rng_cuda"] = ranks.gather(mine.cuda)
    return states


def restore_random(states: dict[str, Tensor], ranks: Ranks) -> None:
    """Give each rank its random state; one that there was no state of keeps its own."""
    rows = states["rng"]
    rows = rows[None] if rows.dim() == 1 else rows  # a single rank's was once stored without rows
    if ranks.rank < len(rows):
        cuda = states["rng_cuda"][ranks.rank] if "rng_cuda" in states else None
        RandomState(rows[ranks.rank], cuda).restore(ranks.device)


def _copied(value: Any) -> Any:
    """The same structure with copies of its tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_copied(each) for each in value]
    return value


def _sha256(structure: Any) -> str:
    digest = hashlib.sha256()
    for part in _parts(structure):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes | memoryview]:
    """All that a structure holds, in an order of its own: dicts by key, tensors by their bytes."""
    if isinstance(value, Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.contiguous().flatten().view(torch.uint8).numpy().data
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield f"{key!r}:".encode()
            yield from _parts(value[key])
    elif isinstance(value, list | tuple):
        yield f"[{len(value)}".encode()
        for each in value:
            yield from _parts(each)
    else:
        yield json.dumps(value).encode()
