"""Rights of a process in the database, on the bus and in the artifact store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from domain.core.aggregate import Aggregate
from domain.core.topics import Kind

READ, ADD, KEEP = "SELECT", "SELECT, INSERT", "SELECT, INSERT, UPDATE"
CHANGE, REMOVE = "SELECT, INSERT, UPDATE, DELETE", "SELECT, DELETE"

SYSTEM_API = "$JS.API"
"""Prefix of JetStream requests in the account that owns the streams."""

API = "ECOLINK.API"
"""Prefix of JetStream requests in the account of a service. `$JS.API` stays that of the account."""

UNLIMITED = -1

INBOX = "_INBOX.>"
"""Subjects of replies. An account sees only its own."""


@dataclass(frozen=True)
class Access:
    """Rights of a role in the database. Every role may read the event log."""

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


@dataclass(frozen=True)
class AllowedSubjects:
    """The subjects to which a user may publish and subscribe.

    An empty value allows all subjects of the user's account. The server closes the connection of a
    user who exceeds the limit of bytes.
    """

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    publish_denied: tuple[str, ...] = ()
    """Subjects to which the user may not publish, although `publish` contains them."""
    payload: int = UNLIMITED
    """Maximum bytes of a message."""
    subscriptions: int = UNLIMITED
    """Maximum number of subscriptions of a connection."""
    api: str | None = None
    """Prefix of JetStream requests, if the user's account does not own the streams."""


@dataclass(frozen=True)
class BusAccess:
    """Rights of a service on the bus."""

    publishes: tuple[str, ...] = ()
    """Subjects of messages."""
    purges: tuple[str, ...] = ()
    """Streams that the service may empty."""
    reads: tuple[str, ...] = ()
    """Streams of which the service reads the state and single messages."""
    consumes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Durable consumers by stream. The service creates, reads, acknowledges and deletes them."""

    @property
    def requests(self) -> tuple[str, ...]:
        """JetStream requests, without their prefix."""
        names = tuple(self._names(self.consumes))
        return (
            *(f"STREAM.PURGE.{stream}" for stream in self.purges),
            *(f"STREAM.INFO.{stream}" for stream in self.reads),
            *(f"STREAM.MSG.GET.{stream}" for stream in self.reads),
            *(f"CONSUMER.INFO.{name}" for name in names),
            *(f"CONSUMER.DURABLE.CREATE.{name}" for name in names),
            *(f"CONSUMER.MSG.NEXT.{name}" for name in names),
            *(f"CONSUMER.DELETE.{name}" for name in names),
        )

    @property
    def acknowledgements(self) -> tuple[str, ...]:
        """Subjects of acknowledgements of the service's durable consumers."""
        return tuple(f"$JS.ACK.{name}.>" for name in self._names(self.consumes))

    @property
    def imports(self) -> dict[str, str]:
        """Subject in the account that owns the streams, by subject in the service's account."""
        own = {subject: subject for subject in (*self.publishes, *self.acknowledgements)}
        return own | {f"{API}.{each}": f"{SYSTEM_API}.{each}" for each in self.requests}

    @property
    def allowed(self) -> AllowedSubjects:
        """Permissions of the user, which refuse with an error what the account lacks."""
        return AllowedSubjects(publish=tuple(self.imports), subscribe=(INBOX,), api=API)

    @staticmethod
    def _names(durables: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
        for stream, names in durables.items():
            yield from (f"{stream}.{name}" for name in names)


@dataclass(frozen=True)
class ArtifactAccess:
    """Folders of the artifact store that a service may read and list, or also change."""

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
