"""The chunks of a form's body do not affect its contents."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.core.errors import Invalid
from gateway.http.multipart import FIELD_BYTES, Form

TYPE = 'multipart/form-data; boundary="b"'

Parts = list[tuple[str, str | None, bytes]]


def encoded(parts: Parts, end: bytes = b"--b--\r\n") -> bytes:
    body = b""
    for name, filename, content in parts:
        named = f'; filename="{filename}"' if filename is not None else ""
        head = f'Content-Disposition: form-data; name="{name}"{named}'
        body += b"--b\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n"
    return body + end


async def cut(body: bytes, cuts: list[int]) -> AsyncIterator[bytes]:
    places = [0, *sorted(each % (len(body) + 1) for each in cuts), len(body)]
    for start, stop in itertools.pairwise(places):
        yield body[start:stop]


def read(body: bytes, cuts: list[int], content_type: str = TYPE) -> Parts:
    async def run() -> Parts:
        found: Parts = []
        async for part in Form(content_type, cut(body, cuts)).parts():
            content = b"".join([chunk async for chunk in part.chunks])
            found.append((part.name, part.filename, content))
        return found

    return asyncio.run(run())


contents = st.binary(max_size=40).map(lambda each: each.replace(b"\r\n--b", b"")) | st.sampled_from(
    [b"\r\n--", b"\r\n--a\r\n", b"--b", b"\r\n\r\n", b"\r"]
)


@given(st.lists(contents, max_size=3), st.lists(st.integers(0, 10_000), max_size=30))
def test_sent_fields_are_read(sent: list[bytes], cuts: list[int]) -> None:
    parts: Parts = [(f"n{n}", f"{n} ä.jsonl", content) for n, content in enumerate(sent)]
    assert read(encoded(parts), cuts) == parts


def test_an_unread_part_is_skipped() -> None:
    async def names() -> list[str]:
        body = cut(encoded([("a", None, b"1"), ("b", "f", b"2" * 100)]), list(range(0, 200, 7)))
        return [part.name async for part in Form(TYPE, body).parts()]

    assert asyncio.run(names()) == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", TYPE),
        (b"--b", TYPE),
        (encoded([("a", None, b"1")], end=b""), TYPE),
        (b"--b\r\n\r\nx\r\n--b--", TYPE),
        (b"--b\r\nContent-Disposition: attachment\r\n\r\nx\r\n--b--", TYPE),
        (b"--bx\r\n\r\n--b--", TYPE),
        (b"--b\r\n" + b"h" * 10_000, TYPE),
        *((encoded([]), other) for other in ("", "text/plain; boundary=b", "multipart/form-data")),
    ],
)
def test_a_malformed_form_or_another_type_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(Invalid):
        read(body, [], content_type)


@pytest.mark.parametrize("value", [b"x" * (FIELD_BYTES + 1), b"\xff"])
def test_a_field_must_be_short_text(value: bytes) -> None:
    async def run() -> None:
        async for part in Form(TYPE, cut(encoded([("purpose", None, value)]), [])).parts():
            with pytest.raises(Invalid):
                await part.text()

    asyncio.run(run())
