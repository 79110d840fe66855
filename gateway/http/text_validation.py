"""Rejection of NUL characters and unpaired surrogates in requests.

The database can store neither of them as text. An event that contained a NUL would stop every
projection that processes it. A text with an unpaired surrogate cannot be encoded in a response.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from fastapi import Request
from starlette.requests import HTTPConnection

from domain.core.errors import Invalid

NUL = "\x00"
FORM = "application/x-www-form-urlencoded"
SUSPECT = re.compile(rb"\\u(0000|[dD][89a-fA-F])|\xed[\xa0-\xbf]|\x00")
"""NUL or a surrogate: escaped in JSON, as raw bytes, or in a UTF-16 body."""

NO_TEXT = re.compile("[\x00\ud800-\udfff]")


async def only_texts(connection: HTTPConnection) -> None:
    """Raise Invalid for NUL or unpaired surrogates in the path, query, form or JSON body."""
    scope = connection.scope
    if NUL in scope["path"] or NUL in unquote(scope["query_string"].decode("latin-1")):
        raise Invalid("The URL contains a NUL character. Remove it.")
    route = scope.get("route")
    if not isinstance(connection, Request) or getattr(route, "body_field", None) is None:
        return  # a streamed body is not parsed here
    if connection.headers.get("content-type", "").startswith(FORM):
        fields = (await connection.form()).multi_items()
        _refuse_in([list(each) for each in fields], "form")
        return
    content = await connection.body()
    if SUSPECT.search(content) is None:
        return
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return  # the framework rejects it
    _refuse_in(body, "body")


def _refuse_in(value: Any, field: str) -> None:
    if any(NO_TEXT.search(text) for text in _texts(value)):
        message = "The text contains NUL characters or unpaired surrogates. Remove them."
        raise Invalid(message, field=field)


def storable(text: str) -> str:
    """Return a text without NUL characters. Replace unpaired surrogates with question marks."""
    return text.replace(NUL, "").encode(errors="replace").decode()


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                yield text
            case list() as items:
                waiting += items
            case dict() as fields:
                waiting += [*fields.keys(), *fields.values()]
            case _:
                pass
