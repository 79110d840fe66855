"""Repeats of a request: known by the client's key, or by the client saying that it tries again."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated
from uuid import uuid4

from fastapi import Header
from pydantic import JsonValue

from gateway.backend import Backend
from gateway.http.access import Caller
from infrastructure.idempotency import give_key, repeated_key

KeyOf = Annotated[str | None, Header(alias="idempotency-key", min_length=1, max_length=200)]
RetryOf = Annotated[int, Header(alias="x-stainless-retry-count", ge=0)]


def fingerprint(path: str, content: JsonValue) -> str:
    """The sha256 of what a request asks for, whatever the order of its fields."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{path}\n{canonical}".encode()).hexdigest()


def command_key(
    backend: Backend, caller: Caller, key: str | None, retries: int, request_sha256: str
) -> str:
    """The key that makes equal commands one.

    Two equal requests without a key are two commands, unless the client says of the second that it
    is a retry: then it gets the key of the first, whether that has arrived or is still at work.
    """
    if key is not None:
        return key
    made = str(uuid4())
    with backend.pool.connection() as connection:
        if retries:
            return repeated_key(connection, caller.account_id, request_sha256, made)
        give_key(connection, caller.account_id, request_sha256, made)
    return made
