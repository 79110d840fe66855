"""Signed links in notices. They work without sign-in, because only the receiver knows them."""

from __future__ import annotations

import hmac
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

KEY_BYTES = 32


class LinkPurpose(StrEnum):
    """The purpose of a link in a mail."""

    CONFIRM = "confirm"
    UNSUBSCRIBE = "unsubscribe"


def new_signing_key() -> str:
    """Return a new key with 256 random bits. Each address has its own."""
    return secrets.token_hex(KEY_BYTES)


@dataclass(frozen=True)
class LinkSigner:
    """Signs the links of an address.

    Only the newest link to confirm the address is valid, because its token depends on the time at
    which it was requested. Links to unsubscribe stay valid, because old mails contain them.
    """

    address_id: UUID
    signing_key: str = field(repr=False)
    requested_at: datetime

    def token(self, purpose: LinkPurpose) -> str:
        """Return the token of a link: the ID of the address and an HMAC-SHA256."""
        message = f"{purpose}:{self.address_id}"
        if purpose is LinkPurpose.CONFIRM:
            message += f":{self.requested_at.astimezone(UTC).isoformat()}"
        signature = hmac.digest(bytes.fromhex(self.signing_key), message.encode(), "sha256")
        return f"{self.address_id.hex}.{urlsafe_b64encode(signature).decode().rstrip('=')}"

    def is_signed(self, token: str, purpose: LinkPurpose) -> bool:
        """Return True if a token is that of the address for this purpose."""
        expected = self.token(purpose)
        return hmac.compare_digest(token.encode(errors="replace"), expected.encode())


def address_in(token: str) -> UUID | None:
    """Return the ID of the address in a token, which may be forged, or None."""
    try:
        return UUID(hex=token.partition(".")[0])
    except ValueError:
        return None
