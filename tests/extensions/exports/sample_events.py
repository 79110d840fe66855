"""Exports and pushes of the sample platform."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from domain.core.aggregate import Cause, because
from extensions.exports.domain.export import Export, ExportedFiles, ExportFormat
from extensions.exports.domain.use_cases import Exporting
from extensions.exports.tables import (
    Target,
    add_target,
    delete_token,
    set_export_progress,
    set_outcome,
    set_pushed_bytes,
)
from gateway.backend import Backend
from tests.builders.past_job import PastJob


def add(backend: Backend, job: PastJob) -> None:
    """Add exports of a job's model that are ready, running and failed, and pushes."""
    exporting, now = Exporting(backend.log), backend.clock.now()
    with because(Cause("service:exporter", "export", now)):
        ready, running, failed = (
            exporting.request(job.account_id, job.id, format) for format in ExportFormat
        )
        files = ExportedFiles(ref=ready.ref, manifest_sha256="d" * 64, total_bytes=273_456_789)
        ready.complete(files, {}, now + timedelta(days=7))
        failed.fail("no_space", "The export needs 15.0 GiB of disk space, and 3.2 GiB are free.")
        backend.log.commit(ready, failed)
    with backend.pool.connection() as connection:
        set_export_progress(connection, running.id, 42, 100)
    _push(backend, ready, now)


def _push(backend: Backend, export: Export, now: datetime) -> None:
    """Add pushes that are running, completed and failed."""
    with backend.pool.connection() as connection:
        for number in range(3):
            id, name = UUID(int=number), f"acme/support-bot-{number}"
            target = Target(name, private=True, provenance=True, token="hf_secret")
            add_target(connection, id, export.account_id, target, now)
        set_pushed_bytes(connection, UUID(int=0), 120_000_000)
        set_outcome(connection, UUID(int=1), f"https://hub.example.com/acme/commit/{'4f' * 20}")
        set_outcome(connection, UUID(int=2), message="The token may not write")
        for number in (1, 2):
            delete_token(connection, UUID(int=number))
    with because(Cause("service:exporter", "push", now)):
        pushes = [Exporting(backend.log).push(UUID(int=n), export) for n in range(3)]
        pushes[1].complete("4f" * 20)
        pushes[2].fail("forbidden")
        backend.log.commit(*pushes[1:])
