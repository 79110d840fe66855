"""The generated pages of `docs/` are those that the code makes."""

from __future__ import annotations

import pytest

from tests.docs.generate import DOCS, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_generated_page_is_up_to_date(name: str) -> None:
    path = DOCS / name
    assert path.exists(), f"docs/{name} is missing; run `make docs`"
    assert path.read_text() == PAGES[name](), f"docs/{name} is stale; run `make docs`"
