"""Streaming parser of multipart forms (RFC 7578). It holds no file in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from domain.core.errors import Invalid

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

HEADER_BYTES = 8 * 1024
FIELD_BYTES = 4 * 1024


@dataclass
class Part:
    """A part of a form. Its content can be read once, before the next part."""

    name: str
    filename: str | None  # None for a field that is not a file
    chunks: AsyncGenerator[bytes]

    async def text(self) -> str:
        """Return the value of a field. Raises Invalid if it is too long or not UTF-8."""
        value = b""
        async for chunk in self.chunks:
            value += chunk
            if len(value) > FIELD_BYTES:
                raise Invalid(
                    f"The value is longer than {FIELD_BYTES} bytes. Send a shorter one.",
                    field=self.name,
                )
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise Invalid("The value is not UTF-8. Send UTF-8.", field=self.name) from error


@dataclass
class Headers:
    """Headers of a part. Only Content-Disposition is used."""

    field: bytes = b""
    value: bytes = b""
    disposition: bytes = b""


Event = Headers | bytes | Literal["end of part", "end of form"]


class Events:
    """Unconsumed parser events, at most those of one chunk."""

    def __init__(self, boundary: bytes) -> None:
        """Create the parser. Raises FormParserError for an invalid boundary."""
        self.found: deque[Event] = deque()
        self._headers = Headers()
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": lambda: self.found.append(self._headers),
            "on_part_data": lambda data, start, end: self.found.append(data[start:end]),
            "on_part_end": lambda: self.found.append("end of part"),
            "on_end": lambda: self.found.append("end of form"),
        }
        self._parser = MultipartParser(boundary, callbacks, max_header_size=HEADER_BYTES)

    def read(self, chunk: bytes) -> None:
        """Parse a chunk. Raises FormParserError for a malformed form."""
        self._parser.write(chunk)

    def _on_part_begin(self) -> None:
        self._headers = Headers()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._headers.field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._headers.value += data[start:end]

    def _on_header_end(self) -> None:
        headers = self._headers
        if headers.field.lower() == b"content-disposition":
            headers.disposition = headers.value
        headers.field = headers.value = b""


class Form:
    """The parts of a multipart body. All methods raise Invalid for a malformed body."""

    def __init__(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        """Read the content type. Raises Invalid if it is not a multipart form."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise Invalid(
                "The body is not a form. Send Content-Type multipart/form-data with a boundary."
            )
        self._body = body
        try:
            self._events = Events(boundary)
        except FormParserError as error:
            raise Invalid(f"The form's boundary is invalid: {error}.") from error

    async def parts(self) -> AsyncGenerator[Part]:
        """Yield each part in order. Unread content of a part is skipped."""
        while isinstance(headers := await self._next(), Headers):
            disposition, options = parse_options_header(headers.disposition)
            if disposition != b"form-data" or not options.get(b"name"):
                raise Invalid("A part of the form has no name. Name every part.")
            filename = options.get(b"filename")
            content = self._content()
            yield Part(
                _text(options[b"name"]), None if filename is None else _text(filename), content
            )
            async for _ in content:
                pass

    async def _content(self) -> AsyncGenerator[bytes]:
        while isinstance(chunk := await self._next(), bytes):
            yield chunk

    async def _next(self) -> Event:
        """Return the next parser event. Read more of the body if needed."""
        while not self._events.found:
            chunk = await anext(self._body, None)
            if chunk is None:
                raise Invalid("The form ends before its last boundary. Send the complete form.")
            try:
                self._events.read(chunk)
            except FormParserError as error:
                raise Invalid(f"The form is malformed: {error}.") from error
        return self._events.found.popleft()


def _text(sent: bytes) -> str:
    """Decode a field or file name. WHATWG HTML (multipart/form-data) defines the escapes."""
    return sent.decode(errors="replace").replace("%22", '"')
