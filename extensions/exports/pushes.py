"""Pushes of exports to a hub."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from domain.core.aggregate import because
from domain.core.errors import CommandReused, WrongState
from extensions.exports.domain.export import ExportFormat, export_id
from extensions.exports.domain.failures import push_advice
from extensions.exports.domain.hub_push import HubPush, PushStatus
from extensions.exports.domain.use_cases import Exporting
from extensions.exports.push_rows import HUB_PUSHES, pushes_of
from extensions.exports.schemas import PushFailure, PushRequest, PushResponse
from extensions.exports.service import ready_export
from extensions.exports.tables import Target, add_target, delete_target, shown_targets
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.http.read_your_writes import caught_up
from gateway.models.service import own_model
from infrastructure.postgres.store import Connection
from projections.projection import Row

SAME = ("repository", "private", "provenance")
"""Fields of the target that a repeated request must have again."""

REUSED = "You already used this idempotency key for another push. Use a new key."


def request_push(
    backend: Backend,
    caller: Caller,
    model: str,
    format: ExportFormat,
    wanted: PushRequest,
    push_id: UUID,
) -> PushResponse:
    """Push a ready export to a repository. The same `push_id` returns the same push.

    Raise NotFound if there is no export, WrongState if it is not ready or pushes are disabled, and
    CommandReused if the push has another target.
    """
    job_id = own_model(backend, caller, model)["job_id"]
    push = backend.log.find(HubPush, push_id)
    if push is None:
        push = _request(backend, caller, model, format, wanted, push_id)
    with backend.pool.connection() as connection:
        _require_same(connection, push_id, wanted)
    if push.export_id != export_id(job_id, format):
        raise CommandReused(REUSED)
    caught_up(backend, HUB_PUSHES)
    return next(each for each in list_pushes(backend, caller, model) if each.id == push_id)


def _request(
    backend: Backend,
    caller: Caller,
    model: str,
    format: ExportFormat,
    wanted: PushRequest,
    push_id: UUID,
) -> HubPush:
    if backend.settings.hub_endpoint is None:
        raise WrongState(
            "Pushes to a hub are disabled. Ask your operator to set ECOLINK_HUB_ENDPOINT, or "
            "download the export."
        )
    export = ready_export(backend, caller, model, format)
    target = Target(
        wanted.repository, wanted.private, wanted.provenance, wanted.token.get_secret_value()
    )
    with backend.pool.connection() as connection:
        add_target(connection, push_id, caller.account_id, target, backend.clock.now())
        _require_same(connection, push_id, wanted)
    try:
        with because(caller.cause(backend)):
            return Exporting(backend.log).push(push_id, export)
    except Exception:
        if backend.log.find(HubPush, push_id) is None:
            with backend.pool.connection() as connection:
                delete_target(connection, push_id)
        raise


def _require_same(connection: Connection, push_id: UUID, wanted: PushRequest) -> None:
    """Raise CommandReused if a push has another target, regardless of the token."""
    target = shown_targets(connection, [push_id]).get(push_id)
    if target is None or any(target[name] != getattr(wanted, name) for name in SAME):
        raise CommandReused(REUSED)


def list_pushes(backend: Backend, caller: Caller, model: str) -> list[PushResponse]:
    """Return the pushes of a model, newest first. Raise NotFound for an unknown model."""
    job_id = own_model(backend, caller, model)["job_id"]
    return pushes_by_job(backend, caller, [job_id]).get(job_id, [])


def stop_push(backend: Backend, caller: Caller, model: str, push_id: UUID) -> PushResponse:
    """Stop a pending push. A stopped push stays stopped."""
    job_id = own_model(backend, caller, model)["job_id"]
    with because(caller.cause(backend)):
        Exporting(backend.log).stop_push(caller.account_id, job_id, push_id)
    caught_up(backend, HUB_PUSHES)
    return next(each for each in list_pushes(backend, caller, model) if each.id == push_id)


def pushes_by_job(
    backend: Backend, caller: Caller, job_ids: Sequence[UUID] | None = None
) -> dict[UUID, list[PushResponse]]:
    """Return the pushes of an account by the job of their models, newest first."""
    with backend.pool.connection() as connection:
        rows = pushes_of(connection, caller.account_id, job_ids)
        targets = shown_targets(connection, [row["push_id"] for row in rows])
    found: dict[UUID, list[PushResponse]] = {}
    for row in rows:
        if (target := targets.get(row["push_id"])) is not None:
            found.setdefault(row["job_id"], []).append(_answer(row, target))
    return found


def _answer(row: Row, target: Row) -> PushResponse:
    code, running = row["failure_code"], row["status"] == PushStatus.PENDING
    return PushResponse(
        **{name: row[name] for name in PushResponse.model_fields if name in row},
        id=row["push_id"],
        **{name: target[name] for name in SAME},
        progress=target["done_bytes"] / max(1, row["total_bytes"]) if running else None,
        commit=row["commit_id"],
        url=None if running else target["url"],
        last_error=target["message"] if running else None,
        failure=None
        if code is None
        else PushFailure(code=code, message=target["message"] or code, advice=push_advice(code)),
    )
