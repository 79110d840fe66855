"""Exports and pushes on the models page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Form
from fastapi.responses import Response

from domain.core.identity import created_id
from extensions.exports import pushes, service
from extensions.exports.domain.export import ExportFormat, ExportStatus
from extensions.exports.domain.hub_push import PushStatus
from extensions.exports.schemas import ExportResponse, PushRequest, PushResponse
from extensions.exports.settings import ExportSettings
from gateway.backend import Backend, BackendOf
from gateway.http.access import Caller
from gateway.http.permissions import MayDeploy, MayPublish
from gateway.models.pages import updated_lists
from gateway.models.schemas import ModelResponse
from infrastructure.process.role import settings_of

SHOWN_PUSHES = 3
"""Number of pushes of an export that the page shows."""

router = APIRouter(prefix="/models")


@dataclass(frozen=True)
class ShownExports:
    """A snapshot of the exports and pushes of an account."""

    exports: dict[UUID, list[ExportResponse]]
    pushes: dict[UUID, list[PushResponse]]
    days: int
    hub: bool

    @property
    def moving(self) -> bool:
        """True if an export or a push is in progress."""
        exports = (each.status for some in self.exports.values() for each in some)
        return self.pushing or ExportStatus.PENDING in exports

    @property
    def pushing(self) -> bool:
        """True if a push is pending. The exporter runs one push of an account at a time."""
        pushes = (each.status for some in self.pushes.values() for each in some)
        return PushStatus.PENDING in pushes

    def of(self, model: ModelResponse) -> list[ExportResponse]:
        """Return the exports of a model, newest first."""
        return self.exports.get(model.job_id, [])

    def pushes_of(self, model: ModelResponse, export: ExportResponse) -> list[PushResponse]:
        """Return the last pushes of an export, newest first."""
        found = self.pushes.get(model.job_id, [])
        return [each for each in found if each.format is export.format][:SHOWN_PUSHES]

    def formats_left(self, model: ModelResponse) -> list[ExportFormat]:
        """Return the formats in which a model has no export that is pending or ready."""
        known = {each.format for each in self.of(model) if each.status.is_wanted}
        return [each for each in ExportFormat if each not in known]


def shown_exports(backend: Backend, caller: Caller) -> ShownExports:
    """Return the exports and pushes of an account."""
    return ShownExports(
        exports=service.exports_by_job(backend, caller),
        pushes=pushes.pushes_by_job(backend, caller),
        days=settings_of(ExportSettings).export_retention_days,
        hub=backend.settings.hub_endpoint is not None,
    )


@router.post("/{model}/exports/{format}")
def export(model: str, format: ExportFormat, caller: MayDeploy, backend: BackendOf) -> Response:
    """Export a model of the account."""
    service.request_export(backend, caller, model, format)
    return updated_lists(backend, caller)


@router.post("/{model}/exports/{format}/delete")
def delete_export(
    model: str, format: ExportFormat, caller: MayDeploy, backend: BackendOf
) -> Response:
    """Delete an export of a model, or stop it."""
    service.delete_export(backend, caller, model, format)
    return updated_lists(backend, caller)


@router.post("/{model}/exports/{format}/push")
def push_export(
    model: str,
    format: ExportFormat,
    form: Annotated[PushRequest, Form()],
    caller: MayPublish,
    backend: BackendOf,
) -> Response:
    """Push an export of a model to a hub."""
    push_id = created_id(caller.account_id, "hub-push", str(uuid4()))
    pushes.request_push(backend, caller, model, format, form, push_id)
    return updated_lists(backend, caller)


@router.post("/{model}/pushes/{push_id}/stop")
def stop_push(model: str, push_id: UUID, caller: MayDeploy, backend: BackendOf) -> Response:
    """Stop a pending push to a hub."""
    pushes.stop_push(backend, caller, model, push_id)
    return updated_lists(backend, caller)
