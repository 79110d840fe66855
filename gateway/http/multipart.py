"""A multipart form (RFC 7578) read as a stream: each part as it comes, never a file in memory."""

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
    """One part of a form. Its content can be read once, and before the next part."""

    name: str
    filename: str | None  # None: a field, not a file
    chunks: AsyncGenerator[bytes]

    async def text(self) -> str:
        """The value of a field; raises Invalid if it is too long or no text."""
        value = b""
        async for chunk in self.chunks:
            value += chunk
            if len(value) > FIELD_BYTES:
                raise Invalid(f"it is longer than {FIELD_BYTES} bytes", field=self.name)
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise Invalid("it is not UTF-8", field=self.name) from error


@dataclass
class Headers:
    """Those of one part, of which only the disposition matters."""

    field: bytes = b""
    value: bytes = b""
    disposition: bytes = b""


Event = Headers | bytes | Literal["end of part", "end of form"]


class Events:
    """What the parser has found so far and nobody has taken: no more than one chunk holds."""

    def __init__(self, boundary: bytes) -> None:
        """Raises FormParserError if there can be no such boundary."""
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
        """Raises FormParserError where it is not what a form has."""
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
    """The parts of a body. Every reading raises Invalid where the body is not what it says."""

    def __init__(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        """Raises Invalid if the type is not that of a form."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise Invalid("send a form: Content-Type multipart/form-data with a boundary")
        self._body = body
        try:
            self._events = Events(boundary)
        except FormParserError as error:
            raise Invalid(f"the form's boundary cannot be used: {error}") from error

    async def parts(self) -> AsyncGenerator[Part]:
        """Each part in turn; what was not read of it is skipped."""
        while isinstance(headers := await self._next(), Headers):
            disposition, options = parse_options_header(headers.disposition)
            if disposition != b"form-data" or not options.get(b"name"):
                raise Invalid("a part of the form has no name")
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
        """What comes next in the form, with as much of the body as that needs."""
        while not self._events.found:
            chunk = await anext(self._body, None)
            if chunk is None:
                raise Invalid("the form ends before its last boundary")
            try:
                self._events.read(chunk)
            except FormParserError as error:
                raise Invalid(f"the form is malformed: {error}") from error
        return self._events.found.popleft()


def _text(sent: bytes) -> str:
    """A name; forms escape nothing else in it (WHATWG HTML, multipart/form-data encoding)."""
    return sent.decode(errors="replace").replace("%22", '"')
