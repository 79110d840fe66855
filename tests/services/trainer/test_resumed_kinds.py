"""Each kind of job equals its uninterrupted run, wherever it was interrupted."""

from __future__ import annotations

from typing import Any

import pytest

from domain.jobs.lifecycle import SegmentEnd
from infrastructure.training.reports import SegmentSpec
from tests.services.trainer.segments import Trainer, resuming

POINTS = range(1, 21)
"""Batches before which a job is stopped, of about 30."""

COMMON: dict[str, Any] = {
    "epochs": 3,
    "gradient_accumulation": 3,
    "dropout": 0.1,
    "save_steps": 4,
}
KINDS: dict[str, dict[str, Any]] = {
    "rsLoRA": {"use_rslora": True, "target_modules": ("q_proj", "up_proj", "down_proj")},
    "DoRA": {"use_dora": True},
    "warm start": {},
    "best state": {"load_best_model_at_end": True, "eval_steps": 2},
}


def spec_of(trainer: Trainer, kind: str) -> SegmentSpec:
    start: dict[str, str] = {}
    if kind == "warm start":
        parent = trainer.run(trainer.spec({"epochs": 1}))
        saved = parent.checkpoints[-1]
        start = {"start_ref": saved.ref, "start_manifest_sha256": saved.manifest_sha256}
    return trainer.spec(COMMON | KINDS[kind], **start)


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_interruptions_change_nothing(trainer: Trainer, kind: str) -> None:
    whole = spec_of(trainer, kind)
    expected = trainer.result(whole, trainer.run(whole))
    identical = 0
    for point in POINTS:
        spec = spec_of(trainer, kind)
        stopped = trainer.run(spec, stop_in=point)
        assert stopped.outcome is SegmentEnd.STOPPED, point
        rest = trainer.run(resuming(spec, *reversed(stopped.checkpoints)))
        assert trainer.result(spec, stopped, rest) == expected, point
        identical += 1
    print(f"{kind}: {identical} of {len(POINTS)} interrupted runs identical")
