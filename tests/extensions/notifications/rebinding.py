"""The client of webhooks, for the test of host names that change their address."""

from __future__ import annotations

from uuid import uuid4

from domain.core.target import TargetPolicy, parsed_networks
from extensions.notifications.domain.signature import new_signing_secret
from extensions.notifications.webhooks.deliveries import Due
from extensions.notifications.webhooks.sender import Sender
from infrastructure.http.guarded import Refused

POLICY = TargetPolicy(parsed_networks("127.0.0.2/32"), http=True)


async def webhook(url: str) -> None:
    """Send a delivery to a webhook."""
    sender = Sender(POLICY)
    due = Due(1, uuid4(), uuid4(), url, [new_signing_secret()], "evt_1", "{}")
    attempt = await sender.send(due)
    await sender.aclose()
    if attempt.status_code is None:
        raise Refused(str(attempt.error))


client = webhook
