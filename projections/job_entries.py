"""A job's events, steps and evaluations in a single list, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import LiteralString, NamedTuple
from uuid import UUID

from infrastructure.postgres.store import Connection
from projections.projection import Row


class EntryKind(IntEnum):
    """Kinds of entries."""

    EVENT = 0
    STEP = 1
    EVALUATION = 2


class EntryKey(NamedTuple):
    """Key of an entry. `n` is the position of an event, or the step of a metric."""

    kind: EntryKind
    n: int
    segment: int  # 0 for events


ENTRIES: dict[EntryKind, LiteralString] = {
    EntryKind.EVENT: """
        SELECT happened_at, 0 AS kind, position AS n, 0 AS segment, event_id, fields
        FROM job_timeline WHERE job_id = %(job)s AND topic <> ALL(%(hidden_topics)s)""",
    EntryKind.STEP: """
        SELECT measured_at AS happened_at, 1 AS kind, step AS n, segment, NULL AS event_id,
            jsonb_build_object('train_loss', train_loss, 'learning_rate', learning_rate,
            'tokens', tokens, 'train_reward_accuracy', accuracy,
            'train_chosen_reward', chosen_reward, 'train_rejected_reward', rejected_reward,
            'train_reward_margin', chosen_reward - rejected_reward) AS fields
        FROM step_measurements WHERE job_id = %(job)s""",
    EntryKind.EVALUATION: """
        SELECT scored.measured_at AS happened_at, 2 AS kind, step AS n, segment, NULL AS event_id,
            jsonb_build_object('train_loss', train_loss, 'valid_loss', eval_loss,
            'valid_mean_token_accuracy',
            CASE WHEN scored.chosen_reward IS NULL THEN scored.accuracy END,
            'valid_reward_accuracy',
            CASE WHEN scored.chosen_reward IS NOT NULL THEN scored.accuracy END,
            'valid_chosen_reward', scored.chosen_reward,
            'valid_rejected_reward', scored.rejected_reward,
            'valid_reward_margin', scored.chosen_reward - scored.rejected_reward) AS fields
        FROM evaluation_measurements AS scored
        LEFT JOIN step_measurements USING (job_id, step, segment)
        WHERE job_id = %(job)s AND step > 0""",
}
"""Queries of the entries by kind.

Metrics have the time of the pod, because the database stores no other time for them.
"""

NEWEST = "ORDER BY happened_at DESC, kind DESC, n DESC, segment DESC LIMIT %(limit)s"


def entries_of(
    connection: Connection,
    job_id: UUID,
    hidden_topics: Sequence[str],
    after: EntryKey | None,
    limit: int,
) -> list[Row] | None:
    """Return up to `limit` entries after a key, newest first; None if that entry does not exist.

    An entry has happened_at, kind, n, segment and fields. An event also has event_id. The fields of
    a step or an evaluation are its metrics. The result omits the evaluation of the base model.
    """
    query = {"job": job_id, "hidden_topics": list(hidden_topics), "limit": limit}
    where = ""
    if after is not None:
        key = {"kind": after.kind.value, "n": after.n, "segment": after.segment}
        found = connection.execute(
            f"SELECT happened_at FROM ({ENTRIES[after.kind]}) AS entry "
            "WHERE n = %(n)s AND segment = %(segment)s",
            query | key,
        ).fetchone()
        if found is None:
            return None
        query |= key | {"at": found["happened_at"]}
        # The first condition is redundant, but lets PostgreSQL use an index.
        where = (
            "WHERE happened_at <= %(at)s "
            "AND (happened_at, kind, n, segment) < (%(at)s, %(kind)s, %(n)s, %(segment)s) "
        )
    # Limit each kind to the page, because a long job has a million steps.
    parts = [f"(SELECT * FROM ({entry}) AS entry {where} {NEWEST})" for entry in ENTRIES.values()]
    return connection.execute(
        f"{' UNION ALL '.join(parts)} {NEWEST}",  # type: ignore[arg-type]
        query,
    ).fetchall()
