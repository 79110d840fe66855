"""The stored measurements of a job as points, from where a run's metrics are sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID

from extensions.trackers.metric_names import EVALUATION_METRICS, STEP_METRICS, named
from extensions.trackers.process.tracker import Point
from extensions.trackers.runs import Sent
from infrastructure.postgres.store import Connection
from infrastructure.training.measurements import (
    earlier_steps,
    evaluations_after,
    last_evaluations_of,
    last_steps_of,
    steps_after,
)


class Batch(NamedTuple):
    """The next points of a run, and how far they are sent after them."""

    points: list[Point]
    sent: Sent


def next_batch(connection: Connection, job_id: UUID, sent: Sent, most: int) -> Batch | None:
    """Return up to `most` points after those that are sent, or None if there are no more.

    A resumed job repeats the steps since its checkpoint. Of a repeated step, the points have only
    the values that differ from those that are sent.
    """
    steps = steps_after(connection, job_id, (sent.segment, sent.step), most)
    after = (sent.evaluation_segment, sent.evaluation_seconds, sent.evaluation_step)
    scored = evaluations_after(connection, job_id, after, most - len(steps))
    if not steps and not scored:
        return None
    points = [*_step_points(connection, job_id, steps), *map(_evaluation_point, scored)]
    now_sent = replace(sent, rows=sent.rows + len(steps) + len(scored))
    if steps:
        highest = max(row["step"] for row in steps)
        now_sent = replace(
            now_sent,
            segment=steps[-1]["segment"],
            step=steps[-1]["step"],
            last_step=max(highest, sent.last_step or 0),
        )
    if scored:
        last = scored[-1]
        now_sent = replace(
            now_sent,
            evaluation_segment=last["segment"],
            evaluation_seconds=last["elapsed_seconds"],
            evaluation_step=last["step"],
        )
    return Batch(points, replace(now_sent, lines=sent.lines + len(points)))


def newest_values(connection: Connection, job_id: UUID) -> dict[str, float]:
    """Return the newest value of each metric of a job."""
    step = last_steps_of(connection, [job_id]).get(job_id, {})
    scored = last_evaluations_of(connection, [job_id]).get(job_id, {})
    return named(step, STEP_METRICS) | named(scored, EVALUATION_METRICS)


def _step_points(connection: Connection, job_id: UUID, rows: list[dict[str, Any]]) -> list[Point]:
    points: list[Point] = []
    for segment in sorted({row["segment"] for row in rows}):
        own = [row for row in rows if row["segment"] == segment]
        known = earlier_steps(connection, job_id, segment, own[0]["step"], own[-1]["step"])
        for row in own:
            before = named(known.get(row["step"], {}), STEP_METRICS)
            values = named(row, STEP_METRICS)
            changed = {name: each for name, each in values.items() if before.get(name) != each}
            if changed:
                points.append(Point(row["step"], row["measured_at"], changed))
    return points


def _evaluation_point(row: Mapping[str, Any]) -> Point:
    return Point(row["step"], row["measured_at"], named(row, EVALUATION_METRICS))
