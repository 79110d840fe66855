"""A multipart form (RFC 7578) read as a stream: each part as it comes, never a file in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from email.message import Message

from domain.errors import Invalid

HEADER_BYTES = 8 * 1024
FIELD_BYTES = 4 * 1024
BOUNDARY_CHARACTERS = 70  # RFC 2046


class Part:
    """One part of a form. Its content can be read once, and before the next part."""

    def __init__(self, name: str, filename: str | None, chunks: AsyncGenerator[bytes]) -> None:
        self.name = name
        self.filename = filename  # None: a field, not a file
        self.chunks = chunks

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


class Form:
    """The parts of a body. Every reading raises Invalid where the body is not what it says."""

    def __init__(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        """Raises Invalid if the type is not that of a form."""
        header = Message()
        header["content-type"] = content_type
        boundary = header.get_boundary()
        if header.get_content_type() != "multipart/form-data" or not boundary:
            raise Invalid("send a form: Content-Type multipart/form-data with a boundary")
        if len(boundary) > BOUNDARY_CHARACTERS:
            raise Invalid(f"the form's boundary is longer than {BOUNDARY_CHARACTERS} characters")
        self._delimiter = b"\r\n--" + boundary.encode()
        self._body = body
        self._buffer = bytearray(b"\r\n")  # so that the first boundary is like the others

    async def parts(self) -> AsyncGenerator[Part]:
        """Each part in turn; what was not read of it is skipped."""
        content = self._content()
        while True:
            async for _ in content:
                pass
            if await self._is_last():
                return
            headers = await self._headers()
            disposition = headers["content-disposition"] or ""
            name = headers.get_param("name", header="content-disposition")
            if not disposition.lower().startswith("form-data") or not isinstance(name, str):
                raise Invalid("a part of the form has no name")
            content = self._content()
            try:
                filename = headers.get_filename()
            except ValueError as error:  # of a codec that takes no bytes as they come
                raise Invalid("its name cannot be read", field=name) from error
            # Forms escape nothing else in a name (WHATWG HTML, multipart/form-data encoding).
            yield Part(name, filename and filename.replace("%22", '"'), content)

    async def _content(self) -> AsyncGenerator[bytes]:
        """What comes before the next boundary, which is taken off too."""
        kept = len(self._delimiter) - 1  # a boundary may have begun in them
        while (end := self._buffer.find(self._delimiter)) < 0:
            if len(self._buffer) > kept:
                chunk = bytes(self._buffer[:-kept])
                del self._buffer[:-kept]
                yield chunk
            await self._fill()
        chunk = bytes(self._buffer[:end])
        del self._buffer[: end + len(self._delimiter)]
        if chunk:
            yield chunk

    async def _is_last(self) -> bool:
        """Whether the boundary just passed ends the form; else its line is taken off."""
        while len(self._buffer) < 2:
            await self._fill()
        if self._buffer[:2] == b"--":
            return True
        padding = await self._until(b"\r\n")
        if padding.strip(b" \t"):
            raise Invalid("the form is malformed: something follows a boundary")
        self._buffer[:0] = b"\r\n"  # a part without headers has an empty line at once
        return False

    async def _headers(self) -> Message:
        block = (await self._until(b"\r\n\r\n")).decode(errors="replace")
        headers = Message()
        for line in block.split("\r\n"):
            name, _, value = line.partition(":")
            if name.strip():
                headers[name.strip()] = value.strip()
        return headers

    async def _until(self, end: bytes) -> bytes:
        while (at := self._buffer.find(end)) < 0:
            if len(self._buffer) > HEADER_BYTES:
                raise Invalid(f"a part's headers are longer than {HEADER_BYTES} bytes")
            await self._fill()
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(end)]
        return found

    async def _fill(self) -> None:
        """More of the body."""
        async for chunk in self._body:
            self._buffer += chunk
            return
        raise Invalid("the form ends before its last boundary")
