"""Routes of notices under /api."""

from __future__ import annotations

from fastapi import APIRouter

from extensions.notifications.notices import service
from extensions.notifications.notices.schemas import NoticeChanges, NoticeResponse, NoticeSettings
from gateway.backend import BackendOf
from gateway.http.errors import refusals
from gateway.http.operations import Operation
from gateway.http.paging import Limit
from gateway.http.permissions import MayManageKeys, MayRead
from gateway.schemas import Listed

router = APIRouter(prefix="/notices", tags=["notices"], route_class=Operation)


@router.get("")
def show_notice_settings(caller: MayRead, backend: BackendOf) -> NoticeSettings:
    """Show the e-mail address of your account for notices, and the chosen kinds."""
    return service.settings(backend, caller)


@router.patch("", responses=refusals(409))
def update_notice_settings(
    changes: NoticeChanges, caller: MayManageKeys, backend: BackendOf
) -> NoticeSettings:
    """Change the e-mail address or the kinds of notices.

    EcoLink sends a link to a new address. The address receives notices only after it is confirmed.
    """
    return service.update(backend, caller, changes)


@router.delete("", status_code=204)
def delete_notice_address(caller: MayManageKeys, backend: BackendOf) -> None:
    """Delete the e-mail address with its notices."""
    service.delete(backend, caller)


@router.post("/confirmation", status_code=202, responses=refusals(409))
def request_notice_confirmation(caller: MayManageKeys, backend: BackendOf) -> NoticeSettings:
    """Send the link that confirms the e-mail address again."""
    return service.request_confirmation(backend, caller)


@router.post("/test", status_code=202, responses=refusals(409))
def test_notices(caller: MayManageKeys, backend: BackendOf) -> NoticeResponse:
    """Send a test to the e-mail address, once. List the notices for its result."""
    return service.send_test(backend, caller)


@router.get("/newest")
def list_notices(caller: MayRead, backend: BackendOf, limit: Limit = 50) -> Listed[NoticeResponse]:
    """List the newest notices, newest first."""
    return Listed(data=service.newest(backend, caller, limit))
