"""The format of the event log, which decides what events a process may store.

Processes of two versions of EcoLink share one log during a rolling upgrade. The database has the
format in use, and no event is stored that a process of this format could not read. Each event
class declares in which format each of its versions was added. See docs/operate/upgrades.md.
"""

from __future__ import annotations

from typing import Any

FORMAT = 1
"""Newest format. Increase it once in each release that adds an event or changes its fields."""


class NewerEvent(Exception):
    """A newer version of EcoLink stored this event, so this version cannot read it."""


class NewerFormat(Exception):
    """A newer format is in use, so this version of EcoLink must not run."""

    def __init__(self, in_use: int, set_by: str) -> None:
        super().__init__(
            f"The event log uses format {in_use}, and this version of EcoLink reads up to format "
            f"{FORMAT}. Start EcoLink {set_by} or later. To go back to this version, restore a "
            "backup from before the upgrade was finished."
        )


def format_of(kind: Any, version: int) -> int:
    """Return the format that added a version of an event class."""
    formats = getattr(kind, "formats", {})
    return max([1, *(added for first, added in formats.items() if first <= version)])


def version_in(kind: Any, in_use: int) -> int | None:
    """Return the newest version of an event class in a format, or None if it has none."""
    newest = getattr(kind, "class_version", 1)
    versions = range(newest, 0, -1)
    return next((each for each in versions if format_of(kind, each) <= in_use), None)
