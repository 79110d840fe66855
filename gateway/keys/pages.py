"""The keys of the account on the page of models, and how they are used."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.backend import BackendOf
from gateway.http.access import CallerOf
from gateway.http.sessions import COOKIE
from gateway.keys.api import create_key, list_keys, revoke_key
from gateway.models.pages.models import shown
from gateway.models.pages.snippets import snippets_for
from gateway.web.errors import SIGN_IN
from gateway.web.rendering import fragment

router = APIRouter(prefix="/models")


@router.post("/keys")
def make_key(caller: CallerOf, backend: BackendOf) -> Response:
    """Make a key; this answer alone has its secret."""
    made = create_key(caller, backend)
    return fragment("models/new_key.html", made=made, keys=list_keys(caller, backend).data)


@router.post("/keys/{key_id}/revoke")
def revoke(key_id: UUID, caller: CallerOf, backend: BackendOf) -> Response:
    """End a key; with the one of this session, the session ends too."""
    revoked = revoke_key(key_id, caller, backend)
    if revoked.current:
        signed_out = Response(headers={"hx-redirect": SIGN_IN})
        signed_out.delete_cookie(COOKIE)
        return signed_out
    return fragment("models/key_list.html", keys=list_keys(caller, backend).data)


@router.get("/snippets")
def show_snippets(request: Request, caller: CallerOf, backend: BackendOf, model: str) -> Response:
    """How to call another model."""
    chosen = shown(backend, caller).find(model)
    snippets = snippets_for(request, chosen.name if chosen else None)
    return fragment("models/snippets.html", chosen=chosen, snippets=snippets)
