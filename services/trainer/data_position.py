"""Where in the data a run stands, as one hash: the same data, order and step, or others."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable
from functools import lru_cache

from infrastructure.chat_labels import Example
from services.trainer.plan import Plan


def content_sha256(examples: Iterable[Example]) -> str:
    """Hash of what examples teach: their tokens and labels, in order.

    Rendered anew, they are others where a template writes another date, or another release marks
    other tokens as the answer.
    """
    digest = hashlib.sha256()
    for example in examples:
        digest.update(array("i", example.input_ids).tobytes())
        digest.update(array("i", example.labels).tobytes())
    return digest.hexdigest()


def data_position_sha256(plan: Plan, step: int, *, with_content: bool = True) -> str:
    """Hash of seed, epoch, step, of which examples every step of the epoch sees, and what they are.

    How a step's examples are cut into micro batches, and these spread over ranks, is not in it: it
    may change on resume. Without the content it is the hash of checkpoints of the first two
    schemas, which know examples by their lengths alone.
    """
    epoch = min(step // plan.steps_per_epoch, plan.epochs - 1)
    position = {"seed": plan.seed, "epoch": epoch, "step": step, "plan": _sha256(plan, epoch)}
    if with_content:
        position["content"] = plan.content_sha256
    return hashlib.sha256(json.dumps(position).encode()).hexdigest()


@lru_cache(maxsize=2)
def _sha256(plan: Plan, epoch: int) -> str:
    digest = hashlib.sha256(array("q", plan.lengths).tobytes())
    first = epoch * plan.steps_per_epoch
    for step in range(first, first + plan.steps_per_epoch):
        seen = sorted(index for batch in plan.micro_batches(step) for index in batch)
        digest.update(array("q", (len(seen), *seen)).tobytes())
    return digest.hexdigest()
