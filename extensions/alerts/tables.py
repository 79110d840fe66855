"""Alerts in the database: causes, alerts, silences, and the notices to deliver.

Only the leading alerts process writes them, except silences, which operators write. No column
contains the URL of a receiver, because it contains secrets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from extensions.alerts.domain.cause import Cause
from extensions.alerts.domain.evaluation import Alert, Changes, NoticeKind, Silence, Situation
from extensions.alerts.domain.rule import Severity
from infrastructure.extensions import Table
from infrastructure.postgres.store import Connection

CAUSES = Table(
    name="alert_causes",
    kept="Alerts with IDs, which are deleted by age.",
    time="since",
    ddl="""
CREATE TABLE IF NOT EXISTS alert_causes (
    rule text NOT NULL,
    subject text NOT NULL,
    group_key text NOT NULL,
    since timestamptz NOT NULL,
    text text NOT NULL,
    until timestamptz,
    PRIMARY KEY (rule, subject)
)
""",
)

ALERTS = Table(
    name="alerts",
    kept="Alerts with IDs, which are deleted by age.",
    time="first_seen",
    ddl="""
CREATE TABLE IF NOT EXISTS alerts (
    alert_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rule text NOT NULL,
    group_key text NOT NULL,
    severity text NOT NULL,
    text text NOT NULL,
    first_seen timestamptz NOT NULL,
    fired_at timestamptz,
    notified_at timestamptz,
    resolved_at timestamptz
);
ALTER TABLE alerts ADD COLUMN IF NOT EXISTS absent_since timestamptz;
CREATE UNIQUE INDEX IF NOT EXISTS alerts_open ON alerts (rule, group_key)
    WHERE resolved_at IS NULL;
CREATE INDEX IF NOT EXISTS alerts_resolved ON alerts (resolved_at)
""",
)

NOTICES = Table(
    name="alert_notices",
    kept="Deliveries of alerts to operators.",
    ddl="""
CREATE TABLE IF NOT EXISTS alert_notices (
    notice_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert_id bigint NOT NULL REFERENCES alerts ON DELETE CASCADE,
    kind text NOT NULL,
    receiver text NOT NULL,
    state text NOT NULL,
    created_at timestamptz NOT NULL,
    failures integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL,
    problem text
);
CREATE INDEX IF NOT EXISTS alert_notices_alert ON alert_notices (alert_id);
CREATE INDEX IF NOT EXISTS alert_notices_waiting ON alert_notices (notice_id)
    WHERE state = 'waiting'
""",
)

SILENCES = Table(
    name="alert_silences",
    kept="Silences of operators.",
    ddl="""
CREATE TABLE IF NOT EXISTS alert_silences (
    rule text NOT NULL,
    group_key text NOT NULL,
    until timestamptz NOT NULL,
    PRIMARY KEY (rule, group_key)
)
""",
)
"""An empty text in a silence stands for all rules or all groups."""

EPOCHS = Table(
    name="alert_epochs",
    kept="Processes of EcoLink.",
    ddl="""
CREATE TABLE IF NOT EXISTS alert_epochs (
    process text NOT NULL,
    epoch bigint NOT NULL,
    seen_at timestamptz NOT NULL,
    restarts integer NOT NULL,
    PRIMARY KEY (process, epoch)
)
""",
)
"""`restarts` counts the restarts since the previously observed epoch of the process."""

TABLES = (CAUSES, ALERTS, NOTICES, SILENCES, EPOCHS)

KEPT = timedelta(days=90)
"""Time for which resolved alerts and observed epochs are kept."""

ALERT_COLUMNS = (
    "rule, group_key, severity, text, first_seen, fired_at, notified_at, resolved_at, absent_since"
)


class NoticeState(StrEnum):
    """State of the delivery of a notice."""

    WAITING = "waiting"
    SENT = "sent"
    ABANDONED = "abandoned"
    """The receiver was removed, or did not accept the notice for too long."""


@dataclass(frozen=True)
class PendingNotice:
    """A notice to deliver to one receiver. `failures` counts the failed attempts."""

    id: int
    alert_id: int
    alert: Alert
    kind: NoticeKind
    receiver: str
    created_at: datetime
    failures: int


@dataclass(frozen=True)
class ListedAlert:
    """An alert with its delivery. `problems` has a sentence for each receiver that fails."""

    alert: Alert
    silenced_until: datetime | None
    notified: tuple[str, ...]
    """Receivers that accepted a notice."""
    problems: tuple[str, ...]


def raise_cause(connection: Connection, cause: Cause) -> None:
    """Store a cause. A known cause keeps its start."""
    connection.execute(
        "INSERT INTO alert_causes (rule, subject, group_key, since, text, until) "
        "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (rule, subject) DO UPDATE "
        "SET group_key = excluded.group_key, text = excluded.text, until = excluded.until",
        [cause.rule, cause.subject, cause.group, cause.since, cause.text, cause.until],
    )


def clear_cause(connection: Connection, rule: str, subject: str) -> None:
    """Delete a cause, if there is one."""
    connection.execute("DELETE FROM alert_causes WHERE rule = %s AND subject = %s", [rule, subject])


def stored_causes(connection: Connection) -> set[tuple[str, str]]:
    """Return the rule and the subject of each cause."""
    rows = connection.execute("SELECT rule, subject FROM alert_causes").fetchall()
    return {(row["rule"], row["subject"]) for row in rows}


def is_stored(connection: Connection, rule: str, causes: Sequence[Cause]) -> bool:
    """Return True if exactly these causes of a rule are stored, from whatever time on."""
    rows = connection.execute(
        "SELECT subject, group_key, text FROM alert_causes WHERE rule = %s", [rule]
    ).fetchall()
    stored = {(row["subject"], row["group_key"], row["text"]) for row in rows}
    return stored == {(cause.subject, cause.group, cause.text) for cause in causes}


def replace_causes(connection: Connection, rule: str, causes: Sequence[Cause]) -> None:
    """Store the causes of a rule that a check found, and delete its other causes."""
    for cause in causes:
        raise_cause(connection, cause)
    subjects = [cause.subject for cause in causes]
    connection.execute(
        "DELETE FROM alert_causes WHERE rule = %s AND subject <> ALL(%s)", [rule, subjects]
    )


def forget_causes(connection: Connection, rules: Iterable[str], now: datetime) -> None:
    """Delete the causes that ended, and those of all other rules than these."""
    connection.execute(
        "DELETE FROM alert_causes WHERE until <= %s OR rule <> ALL(%s)", [now, list(rules)]
    )


def situation(connection: Connection) -> Situation:
    """Return the causes, the open alerts and the silences."""
    causes = connection.execute(
        "SELECT rule, subject, group_key, since, text, until FROM alert_causes"
    ).fetchall()
    alerts = connection.execute(
        f"SELECT {ALERT_COLUMNS} FROM alerts WHERE resolved_at IS NULL".encode()
    ).fetchall()
    return Situation(
        [Cause(group=row.pop("group_key"), **row) for row in causes],
        [_alert(row) for row in alerts],
        silences(connection),
    )


def save(connection: Connection, changes: Changes, now: datetime) -> None:
    """Store the result of an evaluation, in the transaction of the caller."""
    ids = {alert.key: _save_alert(connection, alert) for alert in changes.saved}
    for alert in changes.dropped:
        connection.execute(
            "DELETE FROM alerts WHERE rule = %s AND group_key = %s AND resolved_at IS NULL",
            [alert.rule, alert.group],
        )
    for notice in changes.notices:
        for receiver in notice.receivers:
            connection.execute(
                "INSERT INTO alert_notices "
                "(alert_id, kind, receiver, state, created_at, next_attempt_at) "
                "VALUES (%s, %s, %s, %s, %s, %s)",
                [ids[notice.alert.key], notice.kind, receiver, NoticeState.WAITING, now, now],
            )


def _save_alert(connection: Connection, alert: Alert) -> int:
    values = {
        "rule": alert.rule,
        "group": alert.group,
        "severity": alert.severity,
        "text": alert.text,
        "first_seen": alert.first_seen,
        "fired_at": alert.fired_at,
        "notified_at": alert.notified_at,
        "resolved_at": alert.resolved_at,
        "absent_since": alert.absent_since,
    }
    row = connection.execute(
        "UPDATE alerts SET severity = %(severity)s, text = %(text)s, fired_at = %(fired_at)s, "
        "notified_at = %(notified_at)s, resolved_at = %(resolved_at)s, "
        "absent_since = %(absent_since)s WHERE rule = %(rule)s AND group_key = %(group)s "
        "AND resolved_at IS NULL RETURNING alert_id",
        values,
    ).fetchone()
    if row is None:
        row = connection.execute(
            f"INSERT INTO alerts ({ALERT_COLUMNS}) VALUES (%(rule)s, %(group)s, %(severity)s, "
            "%(text)s, %(first_seen)s, %(fired_at)s, %(notified_at)s, %(resolved_at)s, "
            "%(absent_since)s) RETURNING alert_id",
            values,
        ).fetchone()
    assert row is not None
    return row["alert_id"]


def observe_epochs(
    connection: Connection, epochs: Mapping[str, int], now: datetime, most: int | None
) -> None:
    """Store the new epochs of processes. Each counts `most` restarts at most, if given."""
    rows = connection.execute(
        "SELECT process, max(epoch) AS epoch FROM alert_epochs GROUP BY process"
    ).fetchall()
    known = {row["process"]: row["epoch"] for row in rows}
    for process, epoch in epochs.items():
        restarts = epoch - known.get(process, epoch)
        if process in known and restarts == 0:
            continue
        with connection.transaction():
            if restarts < 0:  # a restored database counts epochs from 1 again
                connection.execute("DELETE FROM alert_epochs WHERE process = %s", [process])
                restarts = 0
            connection.execute(
                "INSERT INTO alert_epochs (process, epoch, seen_at, restarts) "
                "VALUES (%s, %s, %s, %s)",
                [process, epoch, now, restarts if most is None else min(most, restarts)],
            )
            connection.execute(
                "DELETE FROM alert_epochs WHERE process = %s AND seen_at < %s",
                [process, now - KEPT],
            )


def restarts_since(connection: Connection, since: datetime) -> dict[str, int]:
    """Return the number of restarts that were observed after a time, by process."""
    rows = connection.execute(
        "SELECT process, sum(restarts)::int AS restarts FROM alert_epochs WHERE seen_at > %s "
        "GROUP BY process",
        [since],
    ).fetchall()
    return {row["process"]: row["restarts"] for row in rows}


def due_notices(connection: Connection, now: datetime, limit: int) -> list[PendingNotice]:
    """Return up to `limit` notices for each receiver whose next attempt is due, oldest first.

    A receiver gets the notices of an alert in order: a later one waits for the earlier ones.
    """
    rows = connection.execute(
        "WITH due AS (SELECT notice.*, row_number() OVER (PARTITION BY receiver "
        "ORDER BY notice_id) AS place FROM alert_notices AS notice "
        "WHERE state = 'waiting' AND next_attempt_at <= %s AND NOT EXISTS ("
        "SELECT FROM alert_notices AS earlier WHERE earlier.state = 'waiting' "
        "AND earlier.alert_id = notice.alert_id AND earlier.receiver = notice.receiver "
        "AND earlier.notice_id < notice.notice_id)) "
        f"SELECT notice_id, alert_id, kind, receiver, created_at, failures, {ALERT_COLUMNS} "
        "FROM due JOIN alerts USING (alert_id) WHERE place <= %s ORDER BY notice_id",
        [now, limit],
    ).fetchall()
    return [
        PendingNotice(
            id=row["notice_id"],
            alert_id=row["alert_id"],
            alert=_alert(row),
            kind=NoticeKind(row["kind"]),
            receiver=row["receiver"],
            created_at=row["created_at"],
            failures=row["failures"],
        )
        for row in rows
    ]


def finish_notice(
    connection: Connection, id: int, state: NoticeState, problem: str | None = None
) -> None:
    """Record that a notice was sent or abandoned."""
    connection.execute(
        "UPDATE alert_notices SET state = %s, problem = %s WHERE notice_id = %s",
        [state, problem, id],
    )


def postpone_notice(connection: Connection, id: int, until: datetime, problem: str) -> None:
    """Record a failed attempt, and the time of the next one."""
    connection.execute(
        "UPDATE alert_notices SET failures = failures + 1, next_attempt_at = %s, problem = %s "
        "WHERE notice_id = %s",
        [until, problem, id],
    )


def silences(connection: Connection) -> list[Silence]:
    """Return all silences, also those that ended."""
    rows = connection.execute(
        "SELECT rule, group_key, until FROM alert_silences ORDER BY rule, group_key"
    ).fetchall()
    return [Silence(row["rule"] or None, row["group_key"] or None, row["until"]) for row in rows]


def silence(connection: Connection, silenced: Silence) -> None:
    """Store a silence. It replaces one of the same rule and group."""
    connection.execute(
        "INSERT INTO alert_silences (rule, group_key, until) VALUES (%s, %s, %s) "
        "ON CONFLICT (rule, group_key) DO UPDATE SET until = excluded.until",
        [silenced.rule or "", silenced.group or "", silenced.until],
    )


def unsilence(connection: Connection, rule: str | None, group: str | None) -> bool:
    """Delete the silence of a rule and group. Return False if there is none."""
    deleted = connection.execute(
        "DELETE FROM alert_silences WHERE rule = %s AND group_key = %s", [rule or "", group or ""]
    )
    return deleted.rowcount > 0


def open_alerts(connection: Connection, now: datetime) -> list[ListedAlert]:
    """Return the alerts that fire, the most recent first."""
    return _listed(
        connection, "fired_at IS NOT NULL AND resolved_at IS NULL ORDER BY fired_at DESC", now
    )


def resolved_alerts(connection: Connection, now: datetime, limit: int) -> list[ListedAlert]:
    """Return the alerts that were resolved last, the most recent first."""
    condition = f"resolved_at IS NOT NULL ORDER BY resolved_at DESC, alert_id LIMIT {int(limit)}"
    return _listed(connection, condition, now)


def forget_older(connection: Connection, before: datetime) -> None:
    """Delete alerts that were resolved before a time, with their notices, and ended silences."""
    connection.execute("DELETE FROM alerts WHERE resolved_at < %s", [before])
    connection.execute("DELETE FROM alert_silences WHERE until < %s", [before])


def _listed(connection: Connection, condition: str, now: datetime) -> list[ListedAlert]:
    rows = connection.execute(
        f"SELECT {ALERT_COLUMNS}, alert_id FROM alerts WHERE {condition}".encode()
    ).fetchall()
    notices = connection.execute(
        "SELECT alert_id, receiver, state, problem FROM alert_notices WHERE alert_id = ANY(%s) "
        "ORDER BY notice_id",
        [[row["alert_id"] for row in rows]],
    ).fetchall()
    known = silences(connection)
    listed: list[ListedAlert] = []
    for row in rows:
        alert = _alert(row)
        own = [each for each in notices if each["alert_id"] == row["alert_id"]]
        covering = [each.until for each in known if each.covers(alert.key, now)]
        sent = [each["receiver"] for each in own if each["state"] == NoticeState.SENT]
        problems = [
            f"{each['receiver']}: {each['problem']}"
            for each in own
            if each["problem"] and each["state"] != NoticeState.SENT
        ]
        listed.append(
            ListedAlert(
                alert,
                max(covering, default=None),
                tuple(dict.fromkeys(sent)),
                tuple(dict.fromkeys(problems)),
            )
        )
    return listed


def _alert(row: dict[str, Any]) -> Alert:
    return Alert(
        rule=row["rule"],
        group=row["group_key"],
        severity=Severity(row["severity"]),
        text=row["text"],
        first_seen=row["first_seen"],
        fired_at=row["fired_at"],
        notified_at=row["notified_at"],
        resolved_at=row["resolved_at"],
        absent_since=row["absent_since"],
    )
