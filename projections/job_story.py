"""Events, steps and evaluations of a job in one list, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import LiteralString, NamedTuple
from uuid import UUID

from infrastructure.store import Connection
from projections.projection import Row


class EntryKind(IntEnum):
    """Where an entry comes from."""

    EVENT = 0
    STEP = 1
    EVALUATION = 2


class EntryKey(NamedTuple):
    """What names an entry of a job: of an event n is its position, else its step."""

    kind: EntryKind
    n: int
    segment: int  # 0 of an event


STORIES: dict[EntryKind, LiteralString] = {
    EntryKind.EVENT: """
        SELECT happened_at, 0 AS kind, position AS n, 0 AS segment, event_id, fields
        FROM job_timeline WHERE job_id = %(job)s AND topic <> ALL(%(hidden_topics)s)""",
    EntryKind.STEP: """
        SELECT measured_at AS happened_at, 1 AS kind, step AS n, segment, NULL AS event_id,
            jsonb_build_object('train_loss', train_loss, 'learning_rate', learning_rate,
            'tokens', tokens) AS fields
        FROM step_measurements WHERE job_id = %(job)s""",
    EntryKind.EVALUATION: """
        SELECT scored.measured_at AS happened_at, 2 AS kind, step AS n, segment, NULL AS event_id,
            jsonb_build_object('train_loss', train_loss, 'valid_loss', eval_loss,
            'valid_mean_token_accuracy', accuracy) AS fields
        FROM evaluation_measurements AS scored
        LEFT JOIN step_measurements USING (job_id, step, segment)
        WHERE job_id = %(job)s AND step > 0""",
}
"""The entries of each kind. What was measured has the pod's time, the only one that is kept."""

NEWEST = "ORDER BY happened_at DESC, kind DESC, n DESC, segment DESC LIMIT %(limit)s"


def story_of(
    connection: Connection,
    job_id: UUID,
    hidden_topics: Sequence[str],
    after: EntryKey | None,
    limit: int,
) -> list[Row] | None:
    """Return the entries after one, newest first; None if there is no such entry.

    An entry has happened_at, kind, n, segment and fields. Of an event it also has the event_id; of
    a step or an evaluation the fields are the metrics. The base model's evaluation is left out.
    """
    query = {"job": job_id, "hidden_topics": list(hidden_topics), "limit": limit}
    where = ""
    if after is not None:
        key = {"kind": after.kind.value, "n": after.n, "segment": after.segment}
        found = connection.execute(
            f"SELECT happened_at FROM ({STORIES[after.kind]}) AS entry "
            "WHERE n = %(n)s AND segment = %(segment)s",
            query | key,
        ).fetchone()
        if found is None:
            return None
        query |= key | {"at": found["happened_at"]}
        # The first condition follows from the second, and is one that an index can serve.
        where = (
            "WHERE happened_at <= %(at)s "
            "AND (happened_at, kind, n, segment) < (%(at)s, %(kind)s, %(n)s, %(segment)s) "
        )
    # Each kind gives no more than the page needs: a long job has a million steps.
    parts = [f"(SELECT * FROM ({story}) AS entry {where} {NEWEST})" for story in STORIES.values()]
    return connection.execute(
        f"{' UNION ALL '.join(parts)} {NEWEST}",  # type: ignore[arg-type]
        query,
    ).fetchall()
