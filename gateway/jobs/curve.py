"""The loss curve of a job, reduced to the points that a screen can show."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from uuid import UUID

from gateway.schemas import ResponseModel
from infrastructure.postgres.store import Connection
from infrastructure.training.measurements import MeasuredStep, evaluations_of, losses_of

MOST_POINTS = 1500
LOSS, STEP = attrgetter("loss"), attrgetter("step")


class Curve(ResponseModel):
    """Losses by step, in columns.

    `smoothed` is the debiased moving average. `segments` has the segment of each point. `last` is
    the segment and step of the newest measurement. `measured` is the number of measured steps. With
    DPO, `chosen`, `rejected` and `accuracies` have the rewards and the accuracy of each step; they
    are otherwise empty.
    """

    steps: list[int]
    losses: list[float]
    smoothed: list[float]
    segments: list[int]
    eval_steps: list[int]
    eval_losses: list[float]
    last: tuple[int, int]
    measured: int
    chosen: list[float]
    rejected: list[float]
    accuracies: list[float]


def curve_of(connection: Connection, job_id: UUID) -> Curve:
    """Return a curve of at most 1,500 points. The evaluation of step 0 is the base model's."""
    measured = losses_of(connection, job_id)
    evaluations = [
        each
        for each in evaluations_of(connection, job_id)
        if not undone(measured, each["step"], each["segment"])
    ]
    points = thinned(measured, MOST_POINTS)
    return Curve(
        steps=[point.step for point in points],
        losses=[point.loss for point in points],
        smoothed=[point.smoothed for point in points],
        segments=[point.segment for point in points],
        eval_steps=[each["step"] for each in evaluations],
        eval_losses=[each["eval_loss"] for each in evaluations],
        last=max(((each.segment, each.step) for each in measured), default=(0, 0)),
        measured=len(measured),
        chosen=[point.chosen for point in points if point.chosen is not None],
        rejected=[point.rejected for point in points if point.rejected is not None],
        accuracies=[point.accuracy for point in points if point.accuracy is not None],
    )


def undone(standing: Sequence[MeasuredStep], step: int, segment: int) -> bool:
    """Return True if a segment after `segment` restarted before this step, which was then lost."""
    before = bisect_right(standing, step, key=STEP)
    return before > 0 and standing[before - 1].segment > segment


def thinned(measured: Sequence[MeasuredStep], most: int) -> list[MeasuredStep]:
    """Return at most `most` steps: the lowest and highest loss of equal ranges, to show spikes."""
    if len(measured) <= most:
        return list(measured)
    first, last = measured[0].step, measured[-1].step
    width = -(-(last - first + 1) // (most // 2))
    kept: list[MeasuredStep] = []
    for _, each in groupby(measured, key=lambda one: (one.step - first) // width):
        there = list(each)
        kept += sorted({min(there, key=LOSS), max(there, key=LOSS)}, key=STEP)
    return kept
