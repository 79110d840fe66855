"""Signed links in notices. They work without sign-in, because only the receiver knows them."""

from __future__ import annotations

import hmac
import secrets
from base64 import urlsafe_b64encode
from enum import StrEnum
from uuid import UUID

KEY_BYTES = 32


class LinkPurpose(StrEnum):
    """What a link does."""

    CONFIRM = "confirm"
    UNSUBSCRIBE = "unsubscribe"


def new_signing_key() -> str:
    """Return a new key with 256 random bits. Each address has its own."""
    return secrets.token_hex(KEY_BYTES)


def signed_token(purpose: LinkPurpose, address_id: UUID, signing_key: str) -> str:
    """Return the token of a link: the ID of the address and an HMAC-SHA256."""
    message = f"{purpose}:{address_id}".encode()
    signature = hmac.digest(bytes.fromhex(signing_key), message, "sha256")
    return f"{address_id.hex}.{urlsafe_b64encode(signature).decode().rstrip('=')}"


def address_in(token: str) -> UUID | None:
    """Return the ID of the address in a token, which may be forged, or None."""
    try:
        return UUID(hex=token.partition(".")[0])
    except ValueError:
        return None


def is_signed(token: str, purpose: LinkPurpose, address_id: UUID, signing_key: str) -> bool:
    """Return True if a token was signed with the key of its address for this purpose."""
    expected = signed_token(purpose, address_id, signing_key)
    return hmac.compare_digest(token.encode(errors="replace"), expected.encode())
