"""Where in the data a run stands, as one hash: the same order and the same step, or another."""

from __future__ import annotations

import hashlib
import json
from array import array
from functools import lru_cache

from services.trainer.plan import Plan


def data_position_sha256(plan: Plan, step: int) -> str:
    """Hash of seed, epoch, step and of which examples every step of the epoch sees.

    How a step's examples are cut into micro batches, and these spread over ranks, is not in it: it
    may change on resume.
    """
    epoch = min(step // plan.steps_per_epoch, plan.epochs - 1)
    position = {"seed": plan.seed, "epoch": epoch, "step": step, "plan": _sha256(plan, epoch)}
    return hashlib.sha256(json.dumps(position).encode()).hexdigest()


@lru_cache(maxsize=2)
def _sha256(plan: Plan, epoch: int) -> str:
    digest = hashlib.sha256(array("q", plan.lengths).tobytes())
    first = epoch * plan.steps_per_epoch
    for step in range(first, first + plan.steps_per_epoch):
        seen = sorted(index for batch in plan.micro_batches(step) for index in batch)
        digest.update(array("q", (len(seen), *seen)).tobytes())
    return digest.hexdigest()
