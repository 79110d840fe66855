"""Browser sessions and one-time sign-in links. They are short-lived and not in the event log.

The tables contain only hashes of tokens. A session belongs to an API key and ends with it. Its
token is replaced every 15 minutes. The previous token stays valid until one minute after the first
use of the new one, because responses can get lost and pages send requests in parallel. Source:
OWASP, Session Management Cheat Sheet, "Renewal timeout".
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID, uuid4

from domain.access.api_key import secret_sha256
from infrastructure.postgres.store import Connection

SESSION_DAYS, ROTATION_MINUTES, GRACE_SECONDS, LINK_MINUTES = 7, 15, 60, 30
MAX_SESSION_DAYS = 30
"""Maximum lifetime of a session in days, even if it is in use."""

DDL = """
CREATE TABLE IF NOT EXISTS web_sessions (
    session_id uuid PRIMARY KEY,
    token_sha256 text NOT NULL UNIQUE,
    previous_sha256 text UNIQUE,
    key_id uuid NOT NULL,
    csrf_token text NOT NULL,
    rotated_at timestamptz NOT NULL,
    shown_at timestamptz,
    expires_at timestamptz NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS sign_in_links (
    token_sha256 text PRIMARY KEY,
    key_id uuid NOT NULL,
    expires_at timestamptz NOT NULL
)
"""


@dataclass(frozen=True)
class Session:
    """A browser that is signed in with an API key."""

    session_id: UUID
    key_id: UUID
    csrf_token: str
    """Token that the session's forms and scripts must send."""
    due: bool
    """True if the token of the session has to be replaced."""


def begin_session(connection: Connection, key_id: UUID) -> str:
    """Begin a session. Return its token, which only the browser may know."""
    token = secrets.token_urlsafe(32)
    connection.execute("DELETE FROM web_sessions WHERE expires_at < now()")
    connection.execute(
        "INSERT INTO web_sessions VALUES (%s, %s, NULL, %s, %s, now(), now(), "
        "now() + make_interval(days => %s))",
        [uuid4(), secret_sha256(token), key_id, secrets.token_urlsafe(32), SESSION_DAYS],
    )
    return token


def session_of(connection: Connection, token: str) -> Session | None:
    """Return the session with this token, or None. The token may have been replaced recently."""
    sha256 = secret_sha256(token)
    row = connection.execute(
        "SELECT *, token_sha256 = %(sha256)s AS newest, "
        "token_sha256 = %(sha256)s AND rotated_at < now() - make_interval(mins => %(mins)s) AS due "
        "FROM web_sessions WHERE expires_at > now() AND (token_sha256 = %(sha256)s OR "
        "previous_sha256 = %(sha256)s AND (shown_at IS NULL OR "
        "shown_at > now() - make_interval(secs => %(secs)s)))",
        {"sha256": sha256, "mins": ROTATION_MINUTES, "secs": GRACE_SECONDS},
    ).fetchone()
    if row is None:
        return None
    if row["newest"] and row["shown_at"] is None:
        connection.execute(
            "UPDATE web_sessions SET shown_at = now() WHERE token_sha256 = %s", [sha256]
        )
    return Session(row["session_id"], row["key_id"], row["csrf_token"], row["due"])


def rotate(connection: Connection, token: str) -> str | None:
    """Replace the token of a session. Return it, or None if another request was faster."""
    new = secrets.token_urlsafe(32)
    row = connection.execute(
        "UPDATE web_sessions SET token_sha256 = %(new)s, previous_sha256 = %(old)s, "
        "rotated_at = now(), shown_at = NULL, expires_at = least("
        "now() + make_interval(days => %(days)s), begun_at + make_interval(days => %(max_days)s)) "
        "WHERE token_sha256 = %(old)s RETURNING 1",
        {
            "new": secret_sha256(new),
            "old": secret_sha256(token),
            "days": SESSION_DAYS,
            "max_days": MAX_SESSION_DAYS,
        },
    ).fetchone()
    return None if row is None else new


def end_session(connection: Connection, token: str) -> None:
    """End the session with this token."""
    connection.execute(
        "DELETE FROM web_sessions WHERE %(sha256)s IN (token_sha256, previous_sha256)",
        {"sha256": secret_sha256(token)},
    )


def ended_among(connection: Connection, session_ids: Collection[UUID]) -> set[UUID]:
    """Return those of the given sessions that have ended."""
    rows = connection.execute(
        "SELECT id FROM unnest(%s::uuid[]) AS given (id) LEFT JOIN web_sessions ON session_id = id "
        "AND expires_at > now() WHERE session_id IS NULL",
        [list(session_ids)],
    ).fetchall()
    return {row["id"] for row in rows}


def add_sign_in_link(connection: Connection, key_id: UUID) -> str:
    """Return a new token that can begin one session for a key within 30 minutes."""
    token = secrets.token_urlsafe(32)
    connection.execute("DELETE FROM sign_in_links WHERE expires_at < now()")
    connection.execute(
        "INSERT INTO sign_in_links VALUES (%s, %s, now() + make_interval(mins => %s))",
        [secret_sha256(token), key_id, LINK_MINUTES],
    )
    return token


def key_of_sign_in_link(connection: Connection, token: str) -> UUID | None:
    """Return the key ID of a sign-in link, or None if the link is invalid. The link stays valid."""
    row = connection.execute(
        "SELECT key_id FROM sign_in_links WHERE token_sha256 = %s AND expires_at > now()",
        [secret_sha256(token)],
    ).fetchone()
    return None if row is None else row["key_id"]


def use_sign_in_link(connection: Connection, token: str) -> UUID | None:
    """Invalidate a sign-in link. Return its key ID, or None if the link was invalid."""
    row = connection.execute(
        "DELETE FROM sign_in_links WHERE token_sha256 = %s AND expires_at > now() RETURNING key_id",
        [secret_sha256(token)],
    ).fetchone()
    return None if row is None else row["key_id"]
