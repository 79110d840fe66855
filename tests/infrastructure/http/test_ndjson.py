"""Lines of a file in chunks."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from infrastructure.http.ndjson import line_starts


@given(st.lists(st.binary().map(lambda each: each.replace(b"\n", b"")), max_size=9), st.data())
def test_offsets_point_at_the_lines(lines: list[bytes], data: st.DataObject) -> None:
    content = b"".join(each + b"\n" for each in lines)
    size = data.draw(st.integers(1, len(content) + 1))
    starts = line_starts(content[at : at + size] for at in range(0, len(content), size))
    assert len(starts) == len(lines) + 1
    assert starts[-1] == len(content)
    found = [content[a : b - 1] for a, b in pairwise(starts)]
    assert found == lines
