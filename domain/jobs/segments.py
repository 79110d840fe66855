"""Segments: launches of a job. They are numbered from 1, and at most one runs at a time."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from domain.core.counts import Count
from domain.jobs.failures import FailureClass, MemoryShortage
from domain.jobs.lifecycle import SegmentEnd
from domain.training.phases import Phase


class SegmentEnding(BaseModel):
    """The reason for the end of a segment, and its duration."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    reason: SegmentEnd
    elapsed_seconds: Count
    grace_seconds: Count = 0  # of the elapsed seconds, those after the end of the paid time
    error_class: str | None = None  # name of the exception that ended it
    log_ref: str | None = None  # artifact with the last log lines
    failure: FailureClass | None = None  # set if it crashed
    shortage: MemoryShortage | None = None  # set if a batch did not fit into the memory
    phase_seconds: dict[Phase, float] = {}


@dataclass(frozen=True)
class RunningSegment:
    """The segment that has GPUs now."""

    number: int
    pod: str | None = None  # None: the launcher has not bound the GPUs yet
    host: str | None = None  # the only host that sees the pod's processes; None: every host
    trains: bool = False  # its model and data are loaded
    certified: bool = False  # it restored the state that was saved in its checkpoint
