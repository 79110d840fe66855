"""Timestamps of signed tree heads by an authority that EcoLink does not control (RFC 3161)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import httpx
from cryptography.x509 import Certificate

from domain.audit.tree_head import TreeHead
from infrastructure.extras import TIMESTAMPS, require

REQUEST_TYPE = "application/timestamp-query"
REPLY_SECONDS = 30.0
EXTRA = TIMESTAMPS, "A timestamp of a signed head"


class TimestampRefused(Exception):
    """The authority did not timestamp a head."""


class TimestampInvalid(Exception):
    """A stored timestamp is damaged, of another head, or not signed by the authority."""


def request_timestamp(url: str, head: TreeHead) -> bytes:
    """Return the authority's response (DER) for the text of a head.

    The request contains only the head's SHA-256 hash. Raise TimestampRefused, httpx.HTTPError or
    MissingExtra.
    """
    require(*EXTRA)
    from rfc3161_client import (
        HashAlgorithm,
        PKIStatus,
        TimestampRequestBuilder,
        decode_timestamp_response,
    )

    request = TimestampRequestBuilder(head.text.encode(), HashAlgorithm.SHA256).build()
    reply = httpx.post(
        url,
        content=request.as_bytes(),
        headers={"content-type": REQUEST_TYPE},
        timeout=REPLY_SECONDS,
    )
    reply.raise_for_status()
    try:
        response = decode_timestamp_response(reply.content)
    except ValueError as error:
        raise TimestampRefused(f"{url} did not send a timestamp: {error}") from error
    if PKIStatus(response.status) is not PKIStatus.GRANTED:
        reasons = ", ".join(response.status_string) or PKIStatus(response.status).name
        raise TimestampRefused(f"{url} refused the timestamp: {reasons}")
    stamped = response.tst_info
    if (stamped.message_imprint.message, stamped.nonce) != (
        request.message_imprint.message,
        request.nonce,
    ):
        raise TimestampRefused(f"{url} sent a timestamp of another request.")
    return reply.content


def timestamp_of(response: bytes, head: TreeHead, roots: Sequence[Certificate]) -> datetime:
    """Return the time of a head's timestamp under the trusted roots.

    Raise TimestampInvalid or MissingExtra.
    """
    require(*EXTRA)
    from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response

    try:
        decoded = decode_timestamp_response(response)
        VerifierBuilder(roots=list(roots)).build().verify_message(decoded, head.text.encode())
    except (ValueError, VerificationError) as error:
        raise TimestampInvalid(str(error)) from error
    return decoded.tst_info.gen_time
