"""Rights of a database role, as a feature declares them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from domain.core.aggregate import Aggregate
from domain.core.topics import Kind

READ, ADD, KEEP = "SELECT", "SELECT, INSERT", "SELECT, INSERT, UPDATE"
CHANGE, REMOVE = "SELECT, INSERT, UPDATE, DELETE", "SELECT, DELETE"


@dataclass(frozen=True)
class Access:
    """Rights of a role. Every role may read the event log."""

    events: tuple[Kind, ...] = ()
    """Events that the role may append: all events of an aggregate, or individual events."""
    reads_snapshots: bool = False
    """True if the role loads accounts, meters or GPU pools from snapshots."""
    snapshots: tuple[type[Aggregate], ...] = ()
    """Aggregates of which the role may add snapshots. It writes all their events."""
    handles_events: bool = False
    """True if the role stores a position in the log and parks events, only under its own name."""
    leads: bool = True
    """True if only one process with the role may work at a time."""
    tables: Mapping[str, str] = field(default_factory=dict)
    """Rights by table, such as `SELECT, UPDATE (status)`."""

    def extended(self, events: tuple[Kind, ...], tables: Mapping[str, str]) -> Access:
        """Add events, and rights on tables. Raise ValueError for a table that has rights."""
        if twice := self.tables.keys() & tables.keys():
            raise ValueError(f"The rights on {', '.join(sorted(twice))} are declared twice.")
        both = {**self.tables, **tables}
        return replace(self, events=(*self.events, *events), tables=both)
