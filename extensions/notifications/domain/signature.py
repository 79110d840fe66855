"""Secrets of endpoints, and signatures by Standard Webhooks (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime

SECRET_PREFIX = "whsec_"
SECRET_BYTES = 24  # the length that the standard recommends; its base64 needs no padding


def new_signing_secret() -> str:
    """Return a new secret with 192 random bits."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signed_headers(
    signing_secrets: Sequence[str], message_id: str, sent_at: datetime, body: str
) -> dict[str, str]:
    """Return the headers with a signature per secret. `sent_at`: receivers refuse old ones."""
    from standardwebhooks import Webhook  # of the extra; the declaration imports this module

    signatures = (Webhook(each).sign(message_id, sent_at, body) for each in signing_secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
