"""Streaming parser of multipart forms (RFC 7578). It keeps no file in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from domain.core.errors import Invalid

HEADER_BYTES = 8 * 1024
FIELD_BYTES = 4 * 1024


@dataclass
class Part:
    """A part of a form. Its content can be read once, before the next part."""

    name: str
    filename: str | None  # None for a field that is not a file
    chunks: AsyncGenerator[bytes]

    async def text(self) -> str:
        """Return the value of a field. Raise Invalid if it is too long or not UTF-8."""
        value = b""
        async for chunk in self.chunks:
            value += chunk
            if len(value) > FIELD_BYTES:
                raise Invalid(
                    f"The value is longer than {FIELD_BYTES:,} bytes. Send a shorter one.",
                    field=self.name,
                )
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise Invalid(
                "The value is not valid UTF-8. Encode it in UTF-8.", field=self.name
            ) from error


Event = tuple[str, bytes]
"""A callback of the parser, and its data."""

NOTICES = ("part_begin", "header_end", "headers_finished", "part_end", "end")
DATA = ("header_field", "header_value", "part_data")


class Form:
    """The parts of a multipart body. All methods raise Invalid for a malformed body."""

    def __init__(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        """Read the content type. Raise Invalid if it is not a multipart form."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise Invalid(
                "The body is not a form. Send Content-Type multipart/form-data with a boundary."
            )
        self._body = body
        self._found: deque[Event] = deque()  # at most the events of one chunk
        callbacks: Any = {f"on_{name}": partial(self._add, name) for name in (*NOTICES, *DATA)}
        try:
            self._parser = MultipartParser(boundary, callbacks, max_header_size=HEADER_BYTES)
        except FormParserError as error:
            raise Invalid(f"The boundary is invalid: {error}. Correct Content-Type.") from error

    def _add(self, name: str, data: bytes = b"", start: int = 0, end: int = 0) -> None:
        self._found.append((name, data[start:end]))

    async def parts(self) -> AsyncGenerator[Part]:
        """Yield each part in order. Skip unread content of a part."""
        while (await self._next())[0] == "part_begin":
            disposition, options = parse_options_header(await self._disposition())
            if disposition != b"form-data" or not options.get(b"name"):
                raise Invalid("A part of the form has no name. Name every part.")
            filename = options.get(b"filename")
            content = self._content()
            yield Part(
                _text(options[b"name"]), None if filename is None else _text(filename), content
            )
            async for _ in content:
                pass

    async def _disposition(self) -> bytes:
        disposition = field = value = b""
        while (event := await self._next())[0] != "headers_finished":
            match event:
                case "header_field", data:
                    field += data
                case "header_value", data:
                    value += data
                case _:
                    if field.lower() == b"content-disposition":
                        disposition = value
                    field = value = b""
        return disposition

    async def _content(self) -> AsyncGenerator[bytes]:
        while (event := await self._next())[0] == "part_data":
            yield event[1]

    async def _next(self) -> Event:
        while not self._found:
            chunk = await anext(self._body, None)
            if chunk is None:
                raise Invalid("The form ends before its last boundary. Send the complete form.")
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise Invalid(
                    f"The form is malformed: {error}. Send a form as defined in RFC 7578."
                ) from error
        return self._found.popleft()


def _text(sent: bytes) -> str:
    """Decode a field or file name. WHATWG HTML (multipart/form-data) defines the escapes."""
    return sent.decode(errors="replace").replace("%22", '"')
