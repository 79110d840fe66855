"""An audit check of measurements: the log has the losses of checkpoints and of the base model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import LiteralString
from uuid import UUID

from domain.jobs import events
from infrastructure.bus.consumer import Recorded
from infrastructure.postgres.store import Connection
from services.projector.store_checks import Difference, DifferenceKind, Segment

STEPS: LiteralString = "step_measurements"
EVALUATIONS: LiteralString = "evaluation_measurements"

BASE_STEP = 0
"""The step of an evaluation of the base model."""


class MeasurementCheck:
    """A comparison of stored losses with those of the log, and of their segments.

    Only a checkpoint's step has its loss in the log, and only the end of a job that of the base
    model. A missing measurement is no difference, because a trainer may fail to deliver it.
    """

    def __init__(self, live: Connection) -> None:
        self._live = live
        self._segments: set[Segment] = set()
        self._train: dict[tuple[UUID, int, int], float] = {}  # by job, segment and step
        self._eval: dict[tuple[UUID, int, int], float] = {}

    def take(self, batch: Sequence[Recorded]) -> None:
        """Record the losses and the segments of jobs."""
        for item in batch:
            match item.event:
                case events.SegmentAllocated(originator_id=job_id, segment=segment):
                    self._segments.add((job_id, segment))
                case events.CheckpointSaved(originator_id=job_id) as saved:
                    place = (job_id, saved.segment, saved.step)
                    self._train[place] = saved.train_loss
                    if saved.eval_loss is not None:
                        self._eval[place] = saved.eval_loss
                case events.EvaluationCompleted(originator_id=job_id) as done:
                    self._eval[job_id, done.segment, BASE_STEP] = done.loss_before
                case _:
                    pass

    def differences(self) -> Iterable[Difference]:
        """Return the differences. Call this after the last batch."""
        yield from self._wrong(STEPS, "train_loss", self._train)
        yield from self._wrong(EVALUATIONS, "eval_loss", self._eval)
        for table in (STEPS, EVALUATIONS):
            yield from self._unknown(table)

    def _wrong(
        self,
        table: LiteralString,
        column: LiteralString,
        logged: dict[tuple[UUID, int, int], float],
    ) -> Iterable[Difference]:
        jobs, segments, steps = zip(*logged, strict=True) if logged else ((), (), ())
        rows = self._live.execute(
            f"SELECT job_id, segment, step, {column} AS stored, loss FROM {table} "
            "JOIN unnest(%s::uuid[], %s::int[], %s::int[], %s::float8[]) "
            "AS logged (job_id, segment, step, loss) USING (job_id, segment, step) "
            f"WHERE {column} IS DISTINCT FROM loss ORDER BY 1, 2, 3",
            [list(jobs), list(segments), list(steps), list(logged.values())],
        )
        for row in rows:
            yield Difference(
                DifferenceKind.MEASUREMENT,
                f"{table} has the {column} {row['stored']!r} at step {row['step']:,} of segment "
                f"{row['segment']} of job {row['job_id']}, but the log has {row['loss']!r}",
            )

    def _unknown(self, table: LiteralString) -> Iterable[Difference]:
        rows = self._live.execute(f"SELECT DISTINCT job_id, segment FROM {table} ORDER BY 1, 2")
        for row in rows:
            if (row["job_id"], row["segment"]) not in self._segments:
                yield Difference(
                    DifferenceKind.MEASUREMENT,
                    f"{table} has measurements of segment {row['segment']} of job {row['job_id']}, "
                    "but the log has no such segment",
                )
