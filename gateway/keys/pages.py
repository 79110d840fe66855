"""API key management on the models page."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from fastapi.responses import Response

from gateway.backend import BackendOf
from gateway.http.access import CallerOf
from gateway.http.sessions import COOKIE
from gateway.keys import service
from gateway.web.errors import SIGN_IN
from gateway.web.rendering import fragment

router = APIRouter(prefix="/models/keys")


@router.post("")
def create_key(caller: CallerOf, backend: BackendOf) -> Response:
    """Create a key and show its secret. Later pages do not show the secret."""
    made = service.create_key(backend, caller)
    return fragment("keys/new.html", made=made, keys=service.list_keys(backend, caller))


@router.post("/{key_id}/revoke")
def revoke_key(key_id: UUID, caller: CallerOf, backend: BackendOf) -> Response:
    """Revoke a key. Revoking the key of this session signs the user out."""
    revoked = service.revoke_key(backend, caller, key_id)
    if revoked.current:
        signed_out = Response(headers={"hx-redirect": SIGN_IN})
        signed_out.delete_cookie(COOKIE)
        return signed_out
    return fragment("keys/list.html", keys=service.list_keys(backend, caller))
