"""The rule that decides whether an API key could have caused an event, from the log alone.

A person's command has the actor `key:<ID>`. A forged event can have the ID of any key. A key acts
after its issue, until its revocation or expiry, on its own account, unless it is an operator's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from domain.access.api_key import ApiKey
from domain.access.role import Role
from domain.core.aggregate import Event
from domain.core.recorded import Recorded
from domain.datasets.dataset import Dataset
from domain.jobs.job_request import JobRequest

LONGEST_COMMAND = timedelta(minutes=1)
"""Time from the verification of a key to the event of its command, at most."""

LONGEST_UPLOAD = timedelta(hours=1)
"""The same for an upload, whose event follows the last byte."""


@dataclass(frozen=True)
class KeyLife:
    """The events that issued and revoked a key, as far as the log goes."""

    issued: int
    """Notification ID."""
    key: ApiKey.ApiKeyIssued
    revoked: Recorded | None = None


def key_problem(item: Recorded, life: KeyLife | None, at: datetime) -> str | None:
    """Return the reason why the key could not have caused an event, or None.

    `life` is None if the log has no event that issued the key. `at` is the time of the event. An
    event soon after the end of its key passes, because its command may have begun before.
    """
    if life is None or life.issued >= item.id:
        return "no earlier event issued this key"
    event, key, revoked = item.event, life.key, life.revoked
    longest = LONGEST_UPLOAD if isinstance(event, Dataset.DatasetUploaded) else LONGEST_COMMAND
    if revoked and revoked.id < item.id and at > revoked.event.timestamp + longest:
        return f"event {revoked.id} had revoked this key"
    if key.expires_at is not None and at > key.expires_at + longest:
        return f"this key had expired at {key.expires_at:%Y-%m-%d %H:%M:%S} UTC"
    if key.role is not Role.OPERATOR and key.account_id != event.account_id:
        return f"this key belongs to account {key.account_id}"
    return None


def continues(event: Event, cause: Event | None) -> bool:
    """Return True if an event continues its cause, a job's request, whose key may have ended."""
    return isinstance(cause, JobRequest.JobRequested) and (cause.actor, cause.account_id) == (
        event.actor,
        event.account_id,
    )
