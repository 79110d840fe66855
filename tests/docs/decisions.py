"""The index of decision records."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs import markdown

RECORD = re.compile(r"# (\d+)\. (.+)\n\nArea: (.+)\. Status: (.+) on ([0-9-]{10})\.\n")
"""Start of a record: number, title, area, status and date."""


def page(folder: Path) -> str:
    """A list of all records in a folder, by area and number."""
    areas: dict[str, list[tuple[str, ...]]] = {}
    for path in sorted(folder.glob("[0-9]*.md")):
        found = RECORD.match(path.read_text())
        assert found, f"{path.name} names no area, status or date"
        number, title, area, status, date = found.groups()
        areas.setdefault(area, []).append((number, f"[{title}]({path.name})", status, date))
    tables = (
        f"## {area}\n\n{markdown.table(('', 'decision', 'status', 'date'), areas[area])}"
        for area in sorted(areas)
    )
    return markdown.page(
        "Decision records",
        "Each record describes one design decision: its context, the decision, the consequences "
        "and the alternatives. If a decision changes, change its record in the same commit.",
        *tables,
    )
