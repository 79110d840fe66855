"""What no request may hold: NUL characters, and halves of surrogate pairs, which are no text.

The database keeps neither. An event has room for a NUL, and would then stop every projection that
it comes to; what has half a pair cannot even be answered.
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
"""Escaped in JSON, half a pair as such, or a body that is UTF-16: all of these are parsed."""

NO_TEXT = re.compile("[\x00\ud800-\udfff]")


async def only_texts(connection: HTTPConnection) -> None:
    """Raises Invalid if any is in the path, the query, or a form or JSON body that is read."""
    scope = connection.scope
    if NUL in scope["path"] or NUL in unquote(scope["query_string"].decode("latin-1")):
        raise Invalid("NUL characters are not accepted in a URL")
    route = scope.get("route")
    if not isinstance(connection, Request) or getattr(route, "body_field", None) is None:
        return  # what is streamed is no text yet
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
        return  # the framework refuses it
    _refuse_in(body, "body")


def _refuse_in(value: Any, field: str) -> None:
    if any(NO_TEXT.search(text) for text in _texts(value)):
        message = "NUL characters and halves of surrogate pairs are not accepted"
        raise Invalid(message, field=field)


def storable(text: str) -> str:
    """A text without NUL characters; half of a surrogate pair becomes a question mark."""
    return text.replace(NUL, "").encode(errors="replace").decode()


def _texts(value: Any) -> Iterator[str]:
    """Every string in a JSON value, names of fields too."""
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
