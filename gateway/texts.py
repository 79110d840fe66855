"""What no request may hold: NUL characters, which the database cannot keep as text.

An event has room for them, and would then stop every projection that it comes to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from fastapi import Request
from starlette.requests import HTTPConnection

from domain.errors import Invalid

NUL, ESCAPED = "\x00", b"\\u0000"


async def without_nul(connection: HTTPConnection) -> None:
    """Raises Invalid if a NUL is in the path, the query, or a JSON body that a model reads."""
    scope = connection.scope
    if NUL in scope["path"] or NUL in unquote(scope["query_string"].decode("latin-1")):
        raise Invalid("NUL characters are not accepted in a URL")
    route = scope.get("route")
    if not isinstance(connection, Request) or getattr(route, "body_field", None) is None:
        return  # what is streamed is no text yet
    content = await connection.body()
    if ESCAPED not in content:
        return
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return  # the framework refuses it
    if any(NUL in text for text in _texts(body)):
        raise Invalid("NUL characters are not accepted", field="body")


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
