"""Segments, which are launches of a job. They are numbered from 1. Only one runs at a time."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ConfigDict

from domain.core.counts import Count, Seconds
from domain.core.value import Value
from domain.jobs.failures import FailureClass, MemoryShortage
from domain.jobs.lifecycle import SegmentEnd
from domain.training.phases import Phase


class SegmentEnding(Value):
    """The end of a segment: its reason and duration."""

    model_config = ConfigDict(allow_inf_nan=False)

    reason: SegmentEnd
    elapsed_seconds: Count
    grace_seconds: Count = 0  # part of the elapsed seconds that is after the paid time
    error_class: str | None = None  # name of the exception that ended the segment
    log_ref: str | None = None  # artifact that contains the last log lines
    failure: FailureClass | None = None  # set if the segment crashed
    shortage: MemoryShortage | None = None  # set if a batch did not fit into memory
    phase_seconds: dict[Phase, Seconds] = {}


@dataclass(frozen=True)
class RunningSegment:
    """The segment that currently has GPUs."""

    number: int
    pod: str | None = None  # None: the launcher has not started the pod yet
    host: str | None = None  # the only host that can see the pod's processes; None: all hosts can
    trains: bool = False  # the segment loaded the model and the data
    certified: bool = False  # the segment restored the state of its checkpoint
