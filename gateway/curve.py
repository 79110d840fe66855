"""The curve of a job's loss: all of its steps in as few points as a screen can show."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import groupby
from uuid import UUID

from gateway.answers import Answer
from infrastructure.measurements import MeasuredStep, evaluations_of, losses_of
from infrastructure.store import Connection

MOST_POINTS = 1500


class Curve(Answer):
    """Losses by step, in columns. Where steps were many, `mean` is that of a point's neighbours.

    `segments` says of each point in which launch it was measured; `last` is the newest of all.
    """

    steps: list[int]
    losses: list[float]
    means: list[float]
    segments: list[int]
    eval_steps: list[int]
    eval_losses: list[float]
    last: tuple[int, int]
    measured: int


def curve_of(connection: Connection, job_id: UUID) -> Curve:
    """A job's curve of at most 1,500 points; an evaluation of step 0 is the base's."""
    measured = losses_of(connection, job_id)
    evaluations = [
        each
        for each in evaluations_of(connection, job_id)
        if not undone(measured, each["step"], each["segment"])
    ]
    points = thinned(measured, MOST_POINTS)
    return Curve(
        steps=[point.step for point, _ in points],
        losses=[point.loss for point, _ in points],
        means=[mean for _, mean in points],
        segments=[point.segment for point, _ in points],
        eval_steps=[each["step"] for each in evaluations],
        eval_losses=[each["eval_loss"] for each in evaluations],
        last=max(((each.segment, each.step) for each in measured), default=(0, 0)),
        measured=len(measured),
    )


def undone(standing: Sequence[MeasuredStep], step: int, segment: int) -> bool:
    """Whether what a launch had at a step is lost, as a later one began before that step."""
    before = bisect_right(standing, step, key=_step)
    return before > 0 and standing[before - 1].segment > segment


def thinned(measured: Sequence[MeasuredStep], most: int) -> list[tuple[MeasuredStep, float]]:
    """At most so many of the steps, each with the mean loss of those that it stands for.

    Steps are cut into ranges of one width, and the lowest and the highest loss of each are kept,
    so that no spike is lost.
    """
    if len(measured) <= most:
        return [(each, each.loss) for each in measured]
    first, last = measured[0].step, measured[-1].step
    width = -(-(last - first + 1) // (most // 2))
    kept: list[tuple[MeasuredStep, float]] = []
    for _, each in groupby(measured, key=lambda one: (one.step - first) // width):
        there = list(each)
        mean = sum(one.loss for one in there) / len(there)
        lowest, highest = min(there, key=_loss), max(there, key=_loss)
        both = sorted({lowest.step: lowest, highest.step: highest}.values(), key=_step)
        kept += [(one, mean) for one in both]
    return kept


def _loss(measured: MeasuredStep) -> float:
    return measured.loss


def _step(measured: MeasuredStep) -> int:
    return measured.step
