"""Copies of the database: the event log in chunks, and the tables that the log cannot rebuild.

All reads come from one snapshot of the database. Events commit in the order of their IDs, so the
snapshot has a prefix of the log, and the positions of consumers in exactly that prefix.
"""

from __future__ import annotations

import gzip
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from typing import LiteralString

from psycopg import sql

from deploy.database_roles import READ_MODELS, known_tables
from domain.core.identity import CATALOG_ID
from extensions.backup.manifest import BackupManifest, Blob, EventChunk, TableCopy
from extensions.backup.target import BackupError, BackupTarget
from infrastructure.extensions import extension_tables
from infrastructure.postgres.store import Connection, connect_to, scalar
from infrastructure.settings import Settings

EVENTS = "ecolink_events"
EVENT_COLUMNS = sql.SQL("originator_id, originator_version, topic, state, notification_id")
CHUNK_EVENTS = 50_000
"""Events in a chunk. A complete chunk is the same in every later backup, and is stored once."""

COMPRESSION = 1

FOLDED = {*READ_MODELS, "projection_positions"}
"""Tables of read models, which a restore copies or rebuilds from the log."""

ID_GAP = 900_000
"""IDs that a restored log skips, because the lost log had events with the first ones of them.

The sealer accepts gaps of up to a million.
"""

OWN = {"projection_shapes", "leaderships"}
"""Tables that describe the database itself. A restore leaves them as the migration made them."""

SCHEMA_ROWS: LiteralString = r"application_name LIKE '\_\_%%'"
"""Rows among the positions in which the event store keeps the version of its own tables."""

EPHEMERAL = {
    *("web_sessions", "sign_in_links", "request_keys", "dataset_progress"),
    *("ecolink_snapshots", "processes", "verifications"),
    *(each.name for each in extension_tables() if each.ephemeral),
}
"""Tables that are in no backup: users sign in again, and services make the rest again."""

SECRETS = {each.name for each in extension_tables() if each.secret}
"""Tables with secrets, which are stored with the keys."""

NEVER = EPHEMERAL | SECRETS | OWN
"""Tables that a backup never contains."""

Progress = Callable[[int, int], None]
"""A function that receives how much is done, and the total."""


def no_progress(done: int, total: int) -> None:
    """Show nothing."""


def owner_url(settings: Settings) -> str:
    """Return the database URL of the tables' owner."""
    url = settings.owner_database_url or settings.database_url
    assert url is not None
    return url


@contextmanager
def snapshot(settings: Settings) -> Iterator[Connection]:
    """Open a connection that sees one state of the database."""
    with connect_to(owner_url(settings)) as store:
        store.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield store


def stored_tables(store: Connection) -> list[str]:
    """Return the tables, except the log's, that a backup contains. A new table is one of them."""
    return [table for table in _tables(store) if table not in {EVENTS, *NEVER}]


def copy_events(store: Connection, target: BackupTarget, progress: Progress) -> list[EventChunk]:
    """Store the events of a snapshot in the target."""
    last = scalar(store, "SELECT coalesce(max(notification_id), 0) FROM ecolink_events")
    after, chunks = 0, list[EventChunk]()
    while found := _bounds(store, after):
        first, until, events = found
        query = sql.SQL(
            "COPY (SELECT {} FROM ecolink_events WHERE notification_id BETWEEN {} AND {} "
            "ORDER BY notification_id) TO STDOUT (FORMAT binary)"
        ).format(EVENT_COLUMNS, first, until)
        blob = _store(store, query, target)
        chunks.append(EventChunk(**blob.model_dump(), first=first, last=until, events=events))
        after = until
        progress(until, last)
    return chunks


def copy_tables(store: Connection, target: BackupTarget, progress: Progress) -> list[TableCopy]:
    """Store the tables of a snapshot in the target."""
    tables = stored_tables(store)
    copies = []
    for number, table in enumerate(tables, start=1):
        rows, columns = _described(store, table)
        blob = _store(store, _copy_out(table, columns), target)
        copies.append(TableCopy(**blob.model_dump(), table=table, columns=columns, rows=rows))
        progress(number, len(tables))
    return copies


def secret_rows(store: Connection) -> dict[str, bytes]:
    """Return the compressed rows of the tables with secrets, by table."""
    found: dict[str, bytes] = {}
    for table in SECRETS & set(_tables(store)):
        content = io.BytesIO()
        query = sql.SQL("COPY {} TO STDOUT (HEADER)").format(sql.Identifier(table))
        _write(store, query, content)
        found[table] = content.getvalue()
    return found


def require_empty(store: Connection, place: str) -> None:
    """Raise BackupError if the database has other tables, or events beside the seeded catalog."""
    tables = _tables(store)
    if foreign := sorted(set(tables) - known_tables()):
        raise BackupError(
            f"{place} has tables of another application: {', '.join(foreign[:5])}. Set "
            "ECOLINK_DATABASE_URL to an empty database."
        )
    if EVENTS not in tables:
        return
    others = "SELECT count(*) FROM ecolink_events WHERE originator_id <> %s"
    if count := scalar(store, others, [CATALOG_ID]):
        raise BackupError(
            f"{place} already has {count:,} events, and a restore never replaces a log. Set "
            "ECOLINK_DATABASE_URL to an empty database, or ECOLINK_HOME to a new directory."
        )


def shapes(store: Connection) -> dict[str, str]:
    """Return the hash of each read model's shape, by name."""
    rows = store.execute("SELECT name, ddl_sha256 FROM projection_shapes").fetchall()
    return {row["name"]: row["ddl_sha256"] for row in rows}


def load(
    store: Connection,
    target: BackupTarget,
    manifest: BackupManifest,
    progress: Progress,
    *,
    read_models: bool,
) -> None:
    """Replace the content of an empty database by that of a backup, in the open transaction.

    Without `read_models`, their tables stay empty.
    """
    emptied = [table for table in _tables(store) if table not in OWN]
    schema = store.execute(f"SELECT * FROM ecolink_tracking WHERE {SCHEMA_ROWS}").fetchall()
    names = sql.SQL(", ").join(map(sql.Identifier, emptied))
    store.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(names))
    copy = sql.SQL("COPY ecolink_events ({}) FROM STDIN (FORMAT binary)").format(EVENT_COLUMNS)
    for chunk in manifest.chunks:
        _load(store, copy, target.read(chunk))
        progress(chunk.last, manifest.last_event)
    found = scalar(store, "SELECT count(*) FROM ecolink_events")
    if found != manifest.events:
        raise BackupError(
            f"The backup {manifest.id} has {found:,} events, but its manifest states "
            f"{manifest.events:,}. Use another backup."
        )
    known = set(emptied)
    if changed := sorted({each.table for each in manifest.tables} & {EVENTS, *NEVER}):
        raise BackupError(
            f"The manifest of {manifest.id} names {', '.join(changed)}, which no backup contains. "
            "Someone changed it. Use another backup."
        )
    wanted = (each for each in manifest.tables if read_models or each.table not in FOLDED)
    for each in _parents_first(store, wanted):
        if each.table not in known:
            raise BackupError(
                f"This EcoLink has no table {each.table!r}, which the backup has. Install the "
                f"version that made it, {manifest.version}, or a newer one."
            )
        _load(store, _copy_in(each.table, each.columns), target.read(each))
        _continue_identity(store, each.table)
    store.execute(f"DELETE FROM ecolink_tracking WHERE {SCHEMA_ROWS}")
    for row in schema:
        store.execute("INSERT INTO ecolink_tracking VALUES (%s, %s)", list(row.values()))


def load_secrets(store: Connection, rows: dict[str, bytes]) -> None:
    """Add the rows of the tables with secrets."""
    for table, content in rows.items():
        query = sql.SQL("COPY {} FROM STDIN (HEADER MATCH)").format(sql.Identifier(table))
        _load(store, query, [content])


def continue_ids(store: Connection, after: int) -> None:
    """Give the next event an ID that is far above `after`."""
    store.execute("SELECT setval('ecolink_events_notification_id_seq', %s)", [after + ID_GAP])


def _tables(store: Connection) -> list[str]:
    rows = store.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    return [row["tablename"] for row in rows.fetchall()]


def _bounds(store: Connection, after: int) -> tuple[int, int, int] | None:
    """Return the first and last ID and the number of the events of the next chunk, or None."""
    row = store.execute(
        "SELECT min(notification_id) AS first, max(notification_id) AS last, count(*) AS events "
        "FROM (SELECT notification_id FROM ecolink_events WHERE notification_id > %s "
        "ORDER BY notification_id LIMIT %s) AS chunk",
        [after, CHUNK_EVENTS],
    ).fetchone()
    return (row["first"], row["last"], row["events"]) if row and row["events"] else None


def _described(store: Connection, table: str) -> tuple[int, tuple[str, ...]]:
    """Return the number of rows and the columns of a table."""
    columns = store.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' "
        "AND table_name = %s AND is_generated = 'NEVER' ORDER BY ordinal_position",
        [table],
    ).fetchall()
    count = sql.SQL("SELECT count(*) AS rows FROM {}").format(sql.Identifier(table))
    row = store.execute(count).fetchone()
    assert row is not None
    return row["rows"], tuple(each["column_name"] for each in columns)


def _copy_out(table: str, columns: Iterable[str]) -> sql.Composed:
    return sql.SQL("COPY (SELECT {} FROM {} ORDER BY 1) TO STDOUT").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(table)
    )


def _copy_in(table: str, columns: Iterable[str]) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )


def _store(store: Connection, query: sql.Composed, target: BackupTarget) -> Blob:
    with tempfile.TemporaryDirectory(prefix="ecolink-backup-") as folder:
        path = Path(folder) / "rows.gz"
        with path.open("wb") as file:
            _write(store, query, file)
        return target.add_file(path)


def _write(store: Connection, query: sql.Composed, file: io.BufferedIOBase | io.BytesIO) -> None:
    """Write rows compressed. The same rows give the same bytes, so nothing states the time."""
    with (
        gzip.GzipFile("", "wb", COMPRESSION, file, mtime=0) as packed,
        io.BufferedWriter(packed, 1024**2) as buffer,  # type: ignore[arg-type]
        store.cursor() as cursor,
        cursor.copy(query) as rows,
    ):
        for block in rows:
            buffer.write(block)


class _Chunks(io.RawIOBase):
    """A file of chunks."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._left = iter(chunks), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._left = self._left or next(self._chunks, b"")
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size


def _load(store: Connection, query: sql.Composed, chunks: Iterable[bytes]) -> None:
    with (
        io.BufferedReader(_Chunks(chunks), 1024**2) as packed,
        gzip.GzipFile(fileobj=packed) as rows,
        store.cursor() as cursor,
        cursor.copy(query) as copy,
    ):
        while block := rows.read(1024**2):
            copy.write(block)
        while packed.read(1024**2):
            pass  # the hash is checked at the end


def _parents_first(store: Connection, copies: Iterable[TableCopy]) -> list[TableCopy]:
    """Order tables so that a row's foreign keys exist before it."""
    found = {each.table: each for each in copies}
    order = TopologicalSorter[str](dict.fromkeys(found, ()))
    rows = store.execute(
        "SELECT conrelid::regclass::text AS child, confrelid::regclass::text AS parent "
        "FROM pg_constraint WHERE contype = 'f'"
    ).fetchall()
    for row in rows:
        if row["child"] in found and row["parent"] in found and row["child"] != row["parent"]:
            order.add(row["child"], row["parent"])
    return [found[table] for table in order.static_order()]


def _continue_identity(store: Connection, table: str) -> None:
    """Let the identity columns of a table continue after its largest values."""
    rows = store.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' "
        "AND table_name = %s AND is_identity = 'YES'",
        [table],
    ).fetchall()
    for row in rows:
        statement = sql.SQL(
            "SELECT setval(pg_get_serial_sequence({}, {}), coalesce(max({}), 1)) FROM {}"
        ).format(
            table, row["column_name"], sql.Identifier(row["column_name"]), sql.Identifier(table)
        )
        store.execute(statement)
