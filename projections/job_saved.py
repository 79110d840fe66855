"""Updates of a job's row by the events of its checkpoints."""

from __future__ import annotations

from psycopg.types.json import Jsonb

from domain.jobs import events
from projections.projection import Cursor

LATEST = """
UPDATE job_detail SET
    changed_at = %(at)s,
    checkpoint_step = (checkpoints -> -1 ->> 'step')::integer,
    checkpoint_loss = (checkpoints -> -1 ->> 'train_loss')::double precision,
    checkpoint_ref = checkpoints -> -1 ->> 'ref',
    trained = coalesce((checkpoints -> -1 ->> 'step')::integer >= total_steps, false)
WHERE job_id = %(job)s
"""

WITHOUT = """
UPDATE job_detail SET checkpoints = (
    SELECT coalesce(jsonb_agg(saved ORDER BY position), '[]')
    FROM jsonb_array_elements(checkpoints) WITH ORDINALITY AS kept (saved, position)
    WHERE saved ->> 'ref' <> %(ref)s
)
WHERE job_id = %(job)s
"""

SCORED = """
UPDATE job_detail SET checkpoints = jsonb_set(checkpoints, '{-1,eval_loss}', to_jsonb(%(loss)s))
WHERE job_id = %(job)s AND (checkpoints -> -1 ->> 'step')::integer = total_steps
"""


def apply_checkpoint(
    cursor: Cursor,
    event: events.CheckpointSaved | events.CheckpointRejected | events.CheckpointPruned,
) -> None:
    """Add a checkpoint to the job's row, or remove one."""
    if isinstance(event, events.CheckpointSaved):
        _add(cursor, event)
    else:
        cursor.execute(WITHOUT, {"ref": event.ref, "job": event.originator_id})
    cursor.execute(LATEST, {"at": event.timestamp, "job": event.originator_id})
    if isinstance(event, events.CheckpointRejected):
        cursor.execute(
            "UPDATE job_detail SET step = coalesce(checkpoint_step, 0) WHERE job_id = %s",
            [event.originator_id],
        )


def score_last_checkpoint(cursor: Cursor, event: events.EvaluationCompleted) -> None:
    """Set the loss of the final evaluation, which applies to the last checkpoint."""
    cursor.execute(SCORED, {"loss": event.loss_after, "job": event.originator_id})


def give_up_checkpoints(cursor: Cursor, event: events.AdapterExpired | events.ModelDeleted) -> None:
    """Remove all checkpoints. The columns that describe the newest one are kept."""
    cursor.execute(
        "UPDATE job_detail SET checkpoints = '[]', checkpoint_ref = NULL WHERE job_id = %s",
        [event.originator_id],
    )


def _add(cursor: Cursor, event: events.CheckpointSaved) -> None:
    fields = {"ref", "segment", "step", "train_loss", "eval_loss", "total_bytes"}
    cursor.execute(
        "UPDATE job_detail SET step = %s, checkpoints = checkpoints || %s WHERE job_id = %s",
        [event.step, Jsonb(event.model_dump(mode="json", include=fields)), event.originator_id],
    )
