"""Detection of repeated requests, by Idempotency-Key or by the client's retry header."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated
from uuid import uuid4

from fastapi import Header
from pydantic import JsonValue

from gateway.backend import Backend
from gateway.http.access import Caller
from infrastructure.http.idempotency import give_key, repeated_key

KeyOf = Annotated[str | None, Header(alias="idempotency-key", min_length=1, max_length=200)]
RetryOf = Annotated[int, Header(alias="x-stainless-retry-count", ge=0)]


def fingerprint(path: str, content: JsonValue) -> str:
    """Return the SHA-256 hash of a request's content. The order of the fields does not matter."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{path}\n{canonical}".encode()).hexdigest()


def command_key(
    backend: Backend, caller: Caller, key: str | None, retries: int, request_sha256: str
) -> str:
    """Return the key given or, for a retry by its mark, that of the equal request before."""
    if key is not None:
        return key
    made = str(uuid4())
    with backend.pool.connection() as connection:
        if retries:
            return repeated_key(connection, caller.account_id, request_sha256, made)
        give_key(connection, caller.account_id, request_sha256, made)
    return made
