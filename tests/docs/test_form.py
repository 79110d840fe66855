"""The form of README.md and of the decision records."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.generate import DOCS

RECORDS = sorted((DOCS / "understand/decisions").glob("[0-9]*.md"))
SECTIONS = ["Context", "Decision", "Consequences", "Alternatives"]


def test_readme_is_short() -> None:
    assert len((DOCS.parent / "README.md").read_text().splitlines()) <= 150


def test_records_are_numbered_without_a_gap() -> None:
    numbers = [int(record.name.partition("-")[0]) for record in RECORDS]
    assert numbers == list(range(1, len(RECORDS) + 1))


@pytest.mark.parametrize("name", [record.name for record in RECORDS])
def test_record_is_short_and_has_every_section(name: str) -> None:
    text = (DOCS / "understand/decisions" / name).read_text()
    assert len(text.splitlines()) <= 60
    assert re.findall("^## (.+)$", text, re.MULTILINE) == SECTIONS
    assert text.startswith(f"# {int(name.partition('-')[0])}. ")


@pytest.mark.parametrize("page", [*DOCS.rglob("*.md")], ids=lambda page: page.name)
def test_paragraphs_of_lists_are_indented_by_four(page: Path) -> None:
    """The site would end a list at a paragraph with fewer spaces, and count from 1 again."""
    assert re.findall(r"\n\n( {1,3}\S.*)", page.read_text()) == []
