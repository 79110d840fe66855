"""The webhook that Stripe calls. Only requests with a valid signature have an effect."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from extensions.card_payments.service import take_event
from extensions.card_payments.settings import CardSettings
from extensions.card_payments.stripe_provider import verified_event
from gateway.backend import Backend, BackendOf
from gateway.http.errors import TooLarge
from gateway.http.permissions import PUBLIC
from gateway.http.slow_work import run_slowly
from infrastructure.postgres.log_identity import is_held
from infrastructure.process.role import settings_of

MAX_BYTES = 256 * 1024
"""Maximum size of an event in bytes. Stripe's largest events have some 10 kB."""

router = APIRouter(include_in_schema=False, dependencies=[PUBLIC])


@router.post("/payments/stripe/webhook")
async def receive(
    request: Request,
    backend: BackendOf,
    stripe_signature: Annotated[str | None, Header(max_length=2000)] = None,
) -> Response:
    """Take an event. Stripe repeats it for days until the response is 2xx.

    Return 503 if the log is a restored copy that is held.
    """
    own = settings_of(CardSettings)
    secret = own.stripe_webhook_secret
    if secret is None or own.stripe_secret_key is None:
        return Response(status_code=404)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise TooLarge(f"The event is larger than {MAX_BYTES:,} bytes.")
    return await run_slowly(_taken, backend, bytes(body), stripe_signature, secret)


def _taken(backend: Backend, body: bytes, signature: str | None, secret: str) -> Response:
    event = verified_event(body, signature, secret)
    with backend.pool.connection() as connection:
        if is_held(connection):  # the event could charge a card
            return Response(status_code=503)
    take_event(backend, event)
    return Response(status_code=204)
