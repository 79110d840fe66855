"""The page of notices, and the pages of the links in mails."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from domain.core.errors import Invalid
from extensions.notifications.domain.email_address import MAX_LENGTH
from extensions.notifications.domain.kind import CHOSEN, TITLES, NoticeKind
from extensions.notifications.notices import service
from extensions.notifications.notices.schemas import NoticeChanges
from gateway.backend import Backend, BackendOf
from gateway.http.access import Caller
from gateway.http.permissions import PUBLIC, MayManageKeys, MayRead
from gateway.web.rendering import fragment, page

ADDRESS = "/notices"

LISTED_NOTICES = 20

router = APIRouter(prefix=ADDRESS)


@router.get("")
def show(request: Request, caller: MayRead, backend: BackendOf) -> Response:
    """Show the address, the kinds and the newest notices."""
    return page(
        request, backend, caller, "notifications/notices/page.html", **_shown(backend, caller)
    )


@router.get("/newest")
def show_newest(caller: MayRead, backend: BackendOf) -> Response:
    """Return the newest notices. The page requests them while some are not sent."""
    return fragment("notifications/notices/newest.html", **_shown(backend, caller))


@router.post("")
def save(
    caller: MayManageKeys,
    backend: BackendOf,
    email: Annotated[str, Form(max_length=MAX_LENGTH)] = "",
    kind: Annotated[list[NoticeKind] | None, Form()] = None,
) -> Response:
    """Save the address and the kinds."""
    if not email.strip():
        raise Invalid("Enter an e-mail address such as ada@example.com.", field="email")
    kinds = [each for each in CHOSEN if each in (kind or ())]
    service.update(backend, caller, NoticeChanges(email=email.strip(), kinds=kinds))
    return _now(backend, caller, "The changes are saved.")


@router.post("/delete")
def delete(caller: MayManageKeys, backend: BackendOf) -> Response:
    """Delete the address."""
    service.delete(backend, caller)
    return Response(headers={"hx-redirect": ADDRESS})


@router.post("/confirmation")
def request_confirmation(caller: MayManageKeys, backend: BackendOf) -> Response:
    """Send the link that confirms the address again."""
    service.request_confirmation(backend, caller)
    return _now(backend, caller, "EcoLink sends another link.")


@router.post("/test")
def send_test(caller: MayManageKeys, backend: BackendOf) -> Response:
    """Send a test, which appears in the list."""
    service.send_test(backend, caller)
    return _now(backend, caller)


@router.get("/confirm/{token}", dependencies=[PUBLIC])
def show_confirmation(token: str, backend: BackendOf) -> Response:
    """Show the address of a link. Link previews do not use up the link."""
    email = service.email_to_confirm(backend, token)
    return _link("Confirm your e-mail address", "Confirm", email, "EcoLink sends notices to it.")


@router.post("/confirm/{token}", dependencies=[PUBLIC])
def confirm(token: str, backend: BackendOf) -> Response:
    """Confirm the address of a link."""
    email = service.email_to_confirm(backend, token)
    service.confirm(backend, token)
    return _link("Address confirmed", None, email, "EcoLink sends notices to it from now on.")


@router.get("/unsubscribe/{token}", dependencies=[PUBLIC])
def show_unsubscribing(token: str, backend: BackendOf) -> Response:
    """Show the address of a link. Link previews do not unsubscribe it."""
    email = service.email_to_unsubscribe(backend, token)
    return _link("Unsubscribe", "Unsubscribe", email, "EcoLink sends no further notices to it.")


@router.post("/unsubscribe/{token}", dependencies=[PUBLIC])
def unsubscribe(token: str, backend: BackendOf) -> Response:
    """Turn off all notices to an address. Mail programs post to this link, too (RFC 8058)."""
    email = service.email_to_unsubscribe(backend, token)
    service.unsubscribe(backend, token)
    said = "EcoLink sends no further notices to it. You can turn them on again after signing in."
    return _link("Unsubscribed", None, email, said)


def _link(title: str, button: str | None, email: str, said: str) -> Response:
    return fragment(
        "notifications/notices/link.html", title=title, button=button, email=email, said=said
    )


def _now(backend: Backend, caller: Caller, done: str | None = None) -> Response:
    shown = _shown(backend, caller)
    shown["done"] = done
    return fragment("notifications/notices/now.html", **shown)


def _shown(backend: Backend, caller: Caller) -> dict[str, Any]:
    return {
        "settings": service.settings(backend, caller),
        "newest": service.newest(backend, caller, LISTED_NOTICES),
        "kinds": CHOSEN,
        "titles": TITLES,
        "address": ADDRESS,
        "done": None,
    }
