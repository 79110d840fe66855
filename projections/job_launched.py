"""Updates of a job's row by the events of its segments."""

from __future__ import annotations

from psycopg.types.json import Jsonb

from domain.billing.meter import Meter
from domain.jobs import events
from domain.jobs.job import JobStatus
from projections.job_row import (
    LAUNCHING,
    LOADING,
    WAITING_FOR_GPU,
    WAITING_FOR_LEASE,
    advance,
    update,
)
from projections.job_saved import score_last_checkpoint
from projections.projection import Cursor

SegmentEvent = (
    events.SegmentAllocated
    | Meter.LeaseGranted
    | events.PodStarted
    | events.TrainingStarted
    | events.EvaluationStarted
    | events.EvaluationCompleted
    | events.SegmentEnded
)


def apply_segment(cursor: Cursor, event: SegmentEvent) -> None:
    """Apply an event of a segment."""
    match event:
        case events.SegmentAllocated():
            update(
                cursor,
                event,
                segment=event.segment,
                phase=WAITING_FOR_LEASE,
                waiting_since=None,
                bound_at=None,
                training_since=None,
                segment_step=None,
            )
        case Meter.LeaseGranted():
            advance(cursor, event, LAUNCHING, event.job_id)
        case events.PodStarted():
            advance(cursor, event, LOADING)
            update(cursor, event, bound_at=event.bound_at)
        case events.TrainingStarted():
            _start_training(cursor, event)
        case events.EvaluationStarted():
            advance(cursor, event, "evaluating")
            update(cursor, event, status=JobStatus.EVALUATING, step=event.step)
        case events.EvaluationCompleted():
            _complete_evaluation(cursor, event)
        case events.SegmentEnded():
            _end_segment(cursor, event)


def _complete_evaluation(cursor: Cursor, event: events.EvaluationCompleted) -> None:
    advance(cursor, event, "registering")
    update(
        cursor,
        event,
        status=JobStatus.TRAINED_PENDING_REGISTER,
        loss_before=event.loss_before,
        loss_after=event.loss_after,
        accuracy_before=event.accuracy_before,
        accuracy_after=event.accuracy_after,
        peak_memory_bytes=event.peak_memory_bytes,
    )
    score_last_checkpoint(cursor, event)


def _start_training(cursor: Cursor, event: events.TrainingStarted) -> None:
    """Start training, or the evaluation if all steps are done."""
    if event.step < event.total_steps:
        update(cursor, event, status=JobStatus.TRAINING)
        advance(cursor, event, "training")
    else:
        advance(cursor, event, "evaluating")
    update(
        cursor,
        event,
        training_since=event.timestamp,
        segment_step=event.step,
        step=event.step,
        total_steps=event.total_steps,
        train_examples=event.train_examples,
        eval_examples=event.eval_examples,
        failure=None,  # of the previous segment
        shortage=None,
        error_class=None,
    )


def _end_segment(cursor: Cursor, event: events.SegmentEnded) -> None:
    """End a segment. The job is queued for its next one, unless a later event changes this."""
    cursor.execute(
        "UPDATE job_detail SET changed_at = %(at)s, grace_seconds = grace_seconds + %(grace)s, "
        "crashes = crashes + %(crashed)s, failure = coalesce(%(failure)s, failure), "
        "shortage = coalesce(%(shortage)s, shortage), "
        "error_class = coalesce(%(error)s, error_class), log_ref = coalesce(%(log)s, log_ref) "
        "WHERE job_id = %(job)s",
        {
            "at": event.timestamp,
            "grace": event.grace_seconds,
            "crashed": int(event.reason == "crashed"),
            "failure": event.failure,
            "shortage": Jsonb(event.shortage.model_dump()) if event.shortage else None,
            "error": event.error_class,
            "log": event.log_ref,
            "job": event.originator_id,
        },
    )
    cursor.execute(
        "UPDATE job_detail SET phase = %(waiting)s, waiting_since = %(at)s, "
        "step = coalesce(checkpoint_step, 0), "
        "status = CASE WHEN status = %(pending)s THEN %(evaluating)s ELSE status END "
        "WHERE job_id = %(job)s AND status <> %(registered)s",
        {
            "at": event.timestamp,
            "waiting": WAITING_FOR_GPU,
            "pending": JobStatus.TRAINED_PENDING_REGISTER,
            "evaluating": JobStatus.EVALUATING,
            "registered": JobStatus.REGISTERED,
            "job": event.originator_id,
        },
    )
