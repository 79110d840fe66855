"""Syntheses with their status, counts and charges."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from domain.core.aggregate import Event
from extensions.synthesis.domain.synthesis import Synthesis, SynthesisStatus
from infrastructure.postgres.store import Connection
from projections.projection import Cursor, NewestFirst, Projection, Row, insert, one_by_one, update

DDL = """
CREATE TABLE IF NOT EXISTS syntheses (
    synthesis_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    status text NOT NULL,
    pause_reason text,
    pause_status integer,
    failure text,
    wanted bigint NOT NULL,
    most_attempts bigint NOT NULL,
    model text,
    endpoint_id uuid,
    seed_dataset_id uuid,
    low_micros bigint NOT NULL,
    high_micros bigint NOT NULL,
    max_cost_micros bigint NOT NULL,
    prompt_micros bigint NOT NULL,
    completion_micros bigint NOT NULL,
    accepted bigint NOT NULL,
    invalid bigint NOT NULL,
    rejected bigint NOT NULL,
    duplicates bigint NOT NULL,
    prompt_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    open_batch boolean NOT NULL,
    paused_at timestamptz,
    paused_seconds double precision NOT NULL,
    dataset_id uuid,
    approved_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS syntheses_account ON syntheses (account_id, approved_at);
CREATE INDEX IF NOT EXISTS syntheses_working ON syntheses (approved_at)
WHERE open_batch OR status = 'generating';
CREATE INDEX IF NOT EXISTS syntheses_dataset ON syntheses (dataset_id)
WHERE dataset_id IS NOT NULL
"""


def apply(cursor: Cursor, event: Event) -> None:
    """Apply one event to the table."""
    match event:
        case Synthesis.SynthesisApproved(plan=plan):
            insert(
                cursor,
                "syntheses",
                synthesis_id=event.originator_id,
                account_id=event.account_id,
                status=SynthesisStatus.GENERATING,
                wanted=plan.examples,
                most_attempts=plan.most_attempts,
                model=plan.generator.model,
                endpoint_id=plan.generator.endpoint_id,
                seed_dataset_id=plan.seed_dataset_id,
                low_micros=event.estimate.low_micros,
                high_micros=event.estimate.high_micros,
                max_cost_micros=event.max_cost_micros,
                prompt_micros=plan.rates.prompt_micros,
                completion_micros=plan.rates.completion_micros,
                **dict.fromkeys(("accepted", "invalid", "rejected", "duplicates"), 0),
                **dict.fromkeys(("prompt_tokens", "completion_tokens"), 0),
                open_batch=False,
                paused_seconds=0,
                approved_at=event.timestamp,
                changed_at=event.timestamp,
            )
        case Synthesis.BatchStarted():
            _change(cursor, event, open_batch=True)
        case Synthesis.BatchCompleted(counts=counts, usage=usage):
            _change(cursor, event, open_batch=False, **counts.model_dump(), **usage.model_dump())
        case Synthesis.SynthesisPaused(reason=reason, status=status):
            paused = {"pause_reason": reason, "pause_status": status, "paused_at": event.timestamp}
            _change(cursor, event, status=SynthesisStatus.PAUSED, **paused)
        case Synthesis.SynthesisResumed(max_cost_micros=micros):
            _generate(cursor, event, max_cost_micros=micros)
        case Synthesis.GenerationStopped():
            _generate(cursor, event)
        case Synthesis.SynthesisCancelled():
            _change(cursor, event, status=SynthesisStatus.CANCELLED)
        case Synthesis.SynthesisFailed(reason=reason):
            _change(cursor, event, status=SynthesisStatus.FAILED, failure=reason)
        case Synthesis.GenerationFinished():
            _change(cursor, event, status=SynthesisStatus.REVIEWING)
        case Synthesis.DatasetCreated(dataset_id=dataset_id):
            _change(cursor, event, status=SynthesisStatus.READY, dataset_id=dataset_id)
        case _:
            pass


def _generate(cursor: Cursor, event: Event, **columns: object) -> None:
    cursor.execute(
        "UPDATE syntheses SET paused_seconds = paused_seconds + extract(epoch FROM %s - paused_at) "
        "WHERE synthesis_id = %s AND paused_at IS NOT NULL",
        [event.timestamp, event.originator_id],
    )
    running = {"pause_reason": None, "pause_status": None, "paused_at": None, **columns}
    _change(cursor, event, status=SynthesisStatus.GENERATING, **running)


def _change(cursor: Cursor, event: Event, **columns: object) -> None:
    key = {"synthesis_id": event.originator_id}
    update(cursor, "syntheses", key, changed_at=event.timestamp, **columns)


SYNTHESES = Projection("syntheses", ("syntheses",), DDL, (Synthesis,), one_by_one(apply))
UNFINISHED = [SynthesisStatus.GENERATING, SynthesisStatus.PAUSED]
NEWEST_SYNTHESES = NewestFirst("syntheses", time="approved_at", key="synthesis_id")


def syntheses_of(
    connection: Connection, account_id: UUID, after: UUID | None = None, limit: int | None = None
) -> list[Row]:
    """Return up to `limit` syntheses of an account after the synthesis `after`, newest first."""
    return NEWEST_SYNTHESES.page(connection, account_id, after, limit)


def synthesis_of(connection: Connection, account_id: UUID, synthesis_id: UUID) -> Row | None:
    """Return the row of an account's synthesis, or None."""
    return connection.execute(
        "SELECT * FROM syntheses WHERE account_id = %s AND synthesis_id = %s",
        [account_id, synthesis_id],
    ).fetchone()


def synthesis_of_dataset(connection: Connection, dataset_id: UUID) -> UUID | None:
    """Return the synthesis whose examples became a dataset, or None."""
    row = connection.execute(
        "SELECT synthesis_id FROM syntheses WHERE dataset_id = %s", [dataset_id]
    ).fetchone()
    return None if row is None else row["synthesis_id"]


def unfinished(connection: Connection, account_id: UUID) -> int:
    """Return the number of an account's syntheses that generate or are paused."""
    row = connection.execute(
        "SELECT count(*) AS found FROM syntheses WHERE account_id = %s AND status = ANY(%s)",
        [account_id, UNFINISHED],
    ).fetchone()
    assert row is not None
    return row["found"]


def unfinished_with_seed(connection: Connection, account_id: UUID, dataset_id: UUID) -> list[UUID]:
    """Return an account's syntheses that still need a seed dataset, oldest first."""
    rows = connection.execute(
        "SELECT synthesis_id FROM syntheses WHERE account_id = %s AND status = ANY(%s) "
        "AND seed_dataset_id = %s ORDER BY approved_at, synthesis_id",
        [account_id, UNFINISHED, dataset_id],
    ).fetchall()
    return [row["synthesis_id"] for row in rows]


def working(connection: Connection) -> list[Row]:
    """Return the syntheses that the synthesis process must work on, oldest first."""
    return connection.execute(
        "SELECT synthesis_id, account_id FROM syntheses "
        "WHERE open_batch OR status = 'generating' ORDER BY approved_at, synthesis_id"
    ).fetchall()


def stalled_seconds(connection: Connection, now: datetime, most_of_account: int) -> float:
    """Return the longest time without progress of a synthesis. Zero if none needs work.

    Only the oldest `most_of_account` syntheses of each account count. The others may wait for them.
    """
    row = connection.execute(
        "SELECT coalesce(max(extract(epoch FROM %s - changed_at)), 0) AS seconds FROM ("
        "SELECT changed_at, row_number() OVER "
        "(PARTITION BY account_id ORDER BY approved_at, synthesis_id) AS place FROM syntheses "
        "WHERE open_batch OR status = 'generating') AS working WHERE place <= %s",
        [now, most_of_account],
    ).fetchone()
    assert row is not None
    return float(row["seconds"])
