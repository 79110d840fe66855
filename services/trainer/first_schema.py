"""Checkpoints of schema version 1: a file of torch's, and hashes over Python's structures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from torch import Tensor

from domain.training.checkpoint import StateHashes
from services.trainer.processes.ranks import Ranks
from services.trainer.state import random_states, restore_random

STATE = "state.pt"


def put_back(
    directory: Path, model: PeftModel, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> None:
    """Make the live state that of a directory; raises KeyError, TypeError or ValueError."""
    weights = load_peft_weights(str(directory), device="cpu")
    state = torch.load(directory / STATE, map_location="cpu", weights_only=True)
    set_peft_model_state_dict(model, weights)
    optimizer.load_state_dict(state.pop("optimizer"))
    if state["rng"].dim() == 1:  # a single rank's was once stored without rows
        state["rng"] = state["rng"][None]
    restore_random(state, ranks)


def hashes(
    model: PeftModel, optimizer: torch.optim.Optimizer, ranks: Ranks, position: str
) -> StateHashes:
    """sha256 of each part of the live state; that of the data position is given."""
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return StateHashes(
        weights=_sha256(weights),
        optimizer=_sha256(optimizer.state_dict()),
        random=_sha256(random_states(ranks)),
        position=position,
    )


def _sha256(structure: Any) -> str:
    digest = hashlib.sha256()
    for part in _parts(structure):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes | memoryview]:
    """All that a structure holds, in an order of its own: dicts by key, tensors by their bytes."""
    if isinstance(value, Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.cpu().contiguous().flatten().view(torch.uint8).numpy().data
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
