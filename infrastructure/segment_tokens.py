"""Segment tokens: by them a report is known as that of the very segment that it names.

All trainers speak to NATS as one user, who may publish any report. A token is made of the services'
secret and the segment's name, so that whoever reads reports can tell, and no trainer can make
another's. What is only measured or logged decides nothing, and has none.
"""

from __future__ import annotations

import hmac
from typing import Protocol
from uuid import UUID


class Named(Protocol):
    """What names a segment, with the token that it shows for it."""

    @property
    def account_id(self) -> UUID: ...
    @property
    def job_id(self) -> UUID: ...
    @property
    def segment(self) -> int: ...
    @property
    def token(self) -> str: ...


def segment_token(secret: str | None, account_id: UUID, job_id: UUID, segment: int) -> str:
    """The token of a segment, 64 hexadecimal digits; empty without a secret."""
    if secret is None:
        return ""
    name = f"{account_id}.{job_id}.{segment}"
    return hmac.digest(secret.encode(), name.encode(), "sha256").hex()


def is_genuine(secret: str | None, message: Named) -> bool:
    """Whether a message comes from the segment that it names; without a secret, all do."""
    expected = segment_token(secret, message.account_id, message.job_id, message.segment)
    return secret is None or hmac.compare_digest(expected.encode(), message.token.encode())
