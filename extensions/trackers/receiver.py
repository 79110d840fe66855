"""The receiver of the integrations of jobs: it checks them, and stores their runs."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from domain.core.errors import Invalid
from domain.training.integrations import Integration, Tracker, require_different
from extensions.trackers.runs import add_runs, runs_of
from extensions.trackers.service import CONNECT, connections
from gateway.backend import Backend
from gateway.http.access import Caller
from infrastructure.postgres.store import Connection


class TrackerReceiver:
    """Integrations are runs of the trackers to which the account has connections."""

    def connected(self, backend: Backend, caller: Caller) -> list[Tracker]:
        """Return the trackers to which the account has a connection."""
        return [each.tracker for each in connections(backend, caller)]

    def require_connected(
        self, backend: Backend, caller: Caller, integrations: Sequence[Integration]
    ) -> None:
        """Raise Invalid unless the account has a connection for each integration."""
        require_different(integrations)
        wanted = [each.type for each in integrations if each.type.is_remote]
        if not wanted:
            return
        known = self.connected(backend, caller)
        for tracker in wanted:
            if tracker not in known:
                raise Invalid(
                    f"Your account has no connection to {tracker.product}. Set it up {CONNECT}. Or "
                    "leave it out of `integrations`, for example with `--without integrations`.",
                    field="integrations",
                )

    def track(
        self, backend: Backend, caller: Caller, job_id: UUID, integrations: Sequence[Integration]
    ) -> None:
        """Track a job, unless it is tracked already."""
        if integrations:
            with backend.pool.connection() as connection:
                add_runs(connection, caller.account_id, job_id, integrations, backend.clock.now())

    def of_jobs(
        self, connection: Connection, job_ids: Sequence[UUID]
    ) -> dict[UUID, list[Integration]]:
        """Return the integrations of jobs, by job ID."""
        found = runs_of(connection, job_ids)
        return {job_id: [each.integration for each in runs] for job_id, runs in found.items()}


receiver = TrackerReceiver()
