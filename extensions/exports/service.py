"""Use cases of exports, their states and their files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from uuid import UUID

from domain.core.aggregate import because
from domain.core.errors import Invalid, NotFound, WrongState
from domain.jobs.job import Job
from extensions.exports.domain.export import Export, ExportFormat, ExportStatus
from extensions.exports.domain.failures import export_advice
from extensions.exports.domain.use_cases import Exporting
from extensions.exports.export_rows import EXPORTS, exports_of, wanted_exports
from extensions.exports.gguf_support import NoGguf, require_gguf_of
from extensions.exports.schemas import ExportFailure, ExportResponse
from extensions.exports.tables import export_progress
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.http.read_your_writes import caught_up, room
from gateway.models.service import own_model
from infrastructure.artifacts.store import Artifacts
from projections.projection import Row

SUPPORT_CACHE = 256
"""Number of base models whose support for GGUF is cached. A ref never changes its content."""


def request_export(
    backend: Backend, caller: Caller, model: str, format: ExportFormat
) -> ExportResponse:
    """Export a model. Return the existing export if it is pending or ready.

    Raise NotFound for an unknown model, Invalid if the base model cannot be expressed in the
    format, QuotaExceeded if the account has too many exports, and WrongState if the model or its
    base model was deleted.
    """
    job_id = own_model(backend, caller, model)["job_id"]
    exporting = Exporting(backend.log)
    if exporting.existing(job_id, format) is None:
        reason = why_impossible(backend, job_id, format)
        if reason is not None:
            raise Invalid(f"{model} cannot be exported as {format}. {reason}", field="format")
        adding = room(backend, "exports", caller.account_id, wanted_exports, EXPORTS)
    else:
        adding = nullcontext()
    with adding, because(caller.cause(backend)):
        exporting.request(caller.account_id, job_id, format)
    caught_up(backend, EXPORTS)
    return show_export(backend, caller, model, format)


def list_exports(backend: Backend, caller: Caller, model: str) -> list[ExportResponse]:
    """Return the exports of a model, newest first. Raise NotFound for an unknown model."""
    job_id = own_model(backend, caller, model)["job_id"]
    return exports_by_job(backend, caller, [job_id]).get(job_id, [])


def show_export(
    backend: Backend, caller: Caller, model: str, format: ExportFormat
) -> ExportResponse:
    """Return the export of a model in a format. Raise NotFound if there is none."""
    found = next((e for e in list_exports(backend, caller, model) if e.format is format), None)
    if found is None:
        caught_up(backend, EXPORTS)
        exports = list_exports(backend, caller, model)
        found = next((each for each in exports if each.format is format), None)
    if found is None:
        raise NotFound(
            f"There is no export of {model} in the format {format}. `ecolink models export` "
            "requests one."
        )
    return found


def delete_export(backend: Backend, caller: Caller, model: str, format: ExportFormat) -> None:
    """Delete an export and its files, or stop it. Raise NotFound if there is none."""
    job_id = own_model(backend, caller, model)["job_id"]
    with because(caller.cause(backend)):
        Exporting(backend.log).delete(caller.account_id, job_id, format)
    caught_up(backend, EXPORTS)


def export_ref(backend: Backend, caller: Caller, model: str, format: ExportFormat) -> str:
    """Return the ref of the files of a ready export."""
    files = ready_export(backend, caller, model, format).files
    assert files is not None
    return files.ref


def ready_export(backend: Backend, caller: Caller, model: str, format: ExportFormat) -> Export:
    """Return a ready export.

    Raise NotFound if there is no export, and WrongState if it is not ready.
    """
    export = show_export(backend, caller, model, format)
    if export.status is not ExportStatus.READY:
        advice = (
            "Wait until it is ready."
            if export.status is ExportStatus.PENDING
            else "Export the model again."
        )
        raise WrongState(
            f"The export of {model} as {format} is not ready: {export.status}. {advice}"
        )
    export_files = Exporting(backend.log).existing(export.job_id, format)
    if export_files is None or export_files.files is None:
        raise NotFound("EcoLink deleted the files. Export the model again.")
    return export_files


def exports_by_job(
    backend: Backend, caller: Caller, job_ids: Sequence[UUID] | None = None
) -> dict[UUID, list[ExportResponse]]:
    """Return the exports of an account by the job of their models, newest first."""
    with backend.pool.connection() as connection:
        rows = exports_of(connection, caller.account_id, job_ids)
        pending = [row["export_id"] for row in rows if row["status"] == ExportStatus.PENDING]
        progress = export_progress(connection, pending)
    found: dict[UUID, list[ExportResponse]] = {}
    for row in rows:
        answer = _answer(row, progress.get(row["export_id"]))
        found.setdefault(row["job_id"], []).append(answer)
    return found


def why_impossible(backend: Backend, job_id: UUID, format: ExportFormat) -> str | None:
    """Return why the model of a job cannot be exported in a format, or None if it can."""
    if not format.is_gguf:
        return None
    ref = backend.log.load(Job, job_id).plan.base_ref
    try:
        return _why_no_gguf(backend.artifacts, ref)
    except FileNotFoundError as error:
        raise WrongState(
            "The base model was deleted. Ask your operator to import the same files again."
        ) from error


@lru_cache(maxsize=SUPPORT_CACHE)
def _why_no_gguf(artifacts: Artifacts, ref: str) -> str | None:
    try:
        require_gguf_of(artifacts.get(f"{ref}/config.json"), artifacts.get(f"{ref}/tokenizer.json"))
    except NoGguf as reason:
        return str(reason)
    return None


def _answer(row: Row, progress: tuple[int, int] | None) -> ExportResponse:
    done, total = progress or (0, 0)
    code = row["failure_code"]
    return ExportResponse(
        **{name: row[name] for name in ExportResponse.model_fields if name in row},
        id=row["export_id"],
        progress=done / total if total else None,
        failure=None
        if code is None
        else ExportFailure(code=code, message=row["failure_message"], advice=export_advice(code)),
    )
