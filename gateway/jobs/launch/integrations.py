"""The integrations of jobs, which an extension connects to trackers.

Without such an extension, jobs have no integrations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

from domain.core.errors import Invalid
from domain.training.integrations import Integration, Tracker
from gateway.backend import Backend
from gateway.http.access import Caller
from infrastructure.extensions import selected
from infrastructure.postgres.store import Connection


class Receiver(Protocol):
    """Sends the metrics of jobs to the trackers in their integrations."""

    def connected(self, backend: Backend, caller: Caller) -> list[Tracker]:
        """Return the trackers to which the account has a connection."""
        ...

    def require_connected(
        self, backend: Backend, caller: Caller, integrations: Sequence[Integration]
    ) -> None:
        """Raise Invalid unless the account has a connection for each integration."""
        ...

    def track(
        self, backend: Backend, caller: Caller, job_id: UUID, integrations: Sequence[Integration]
    ) -> None:
        """Store the integrations of a job, unless it has some already.

        A repeated request of a job calls it too, without `require_connected` before.
        """
        ...

    def of_jobs(
        self, connection: Connection, job_ids: Sequence[UUID]
    ) -> Mapping[UUID, Sequence[Integration]]:
        """Return the integrations of jobs, by job ID."""
        ...


class NoReceiver:
    """Refuses new integrations. A repeated request of an older job succeeds."""

    def connected(self, backend: Backend, caller: Caller) -> list[Tracker]:
        return []

    def require_connected(
        self, backend: Backend, caller: Caller, integrations: Sequence[Integration]
    ) -> None:
        if integrations:
            raise Invalid(
                "This installation has no trackers. Remove `integrations`.", field="integrations"
            )

    def track(
        self, backend: Backend, caller: Caller, job_id: UUID, integrations: Sequence[Integration]
    ) -> None:
        return

    def of_jobs(
        self, connection: Connection, job_ids: Sequence[UUID]
    ) -> Mapping[UUID, Sequence[Integration]]:
        return {}


def receiver() -> Receiver:
    """Return the receiver of the selected extension that has one."""
    for extension in selected():
        if extension.integrations:
            found: Receiver = extension.load(extension.integrations)
            return found
    return NoReceiver()


def has_receiver() -> bool:
    """Return True if jobs can have integrations."""
    return any(extension.integrations for extension in selected())
