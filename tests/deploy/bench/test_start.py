"""The stages of a start, from what the log and the trainer say of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from deploy.bench.start import _start, verdict
from tests.command_context import NOW


def at(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat()


def test_the_stages_follow_one_another_from_the_request_to_the_first_step() -> None:
    events: dict[str, dict[str, Any]] = {
        "JobApproved": {"happened_at": at(0.01)},
        "SegmentAllocated": {"happened_at": at(0.21)},
        "LeaseGranted": {"happened_at": at(0.31)},
        "SegmentEnded": {
            "fields": {"phase_seconds": {"image_pull": 0.5, "model_load": 0.2, "dataset_prep": 0.3}}
        },
    }
    step = {"measured_at": NOW + timedelta(seconds=2.0), "elapsed_seconds": 1.5}
    start = _start(NOW, step, events)
    assert start.stages == pytest.approx(
        {
            "approve": 0.01,
            "GPU": 0.2,
            "lease": 0.1,
            "launch": 0.19,
            "image pull": 0.5,
            "model load": 0.2,
            "dataset prep": 0.3,
            "first step": 0.5,
        }
    )
    assert start.total == pytest.approx(2.0)


def test_one_slow_start_in_twenty_misses_no_aim() -> None:
    assert verdict([1.0] * 20 + [9.0]).met
    assert str(verdict([1.6] * 20)) == "tiny, warm: 95th percentile 1.600 s (aim 1.5 s: missed)"
