"""The index of decision records."""

from __future__ import annotations

from pathlib import Path

from tests.docs import markdown


def page(folder: Path) -> str:
    """A list of all records in a folder, by number."""
    rows = []
    for path in sorted(folder.glob("[0-9]*.md")):
        number, _, title = path.read_text().partition("\n")[0].removeprefix("# ").partition(". ")
        rows.append((number, f"[{title}]({path.name})"))
    return markdown.page(
        "Decision records",
        "Each record describes one design decision: its context, the decision, the consequences "
        "and the alternatives. If a decision changes, change its record in the same commit.",
        markdown.table(("", "decision"), rows),
    )
