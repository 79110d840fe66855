"""Detection of the structure of an unpacked text file from its first bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from services.datasets.json_array import array_rows
from services.datasets.report import Code, Refused
from services.datasets.rows import LINE, ROW, Table
from services.datasets.table import dialect_of, table_rows
from services.datasets.transcript import starts_message, transcript_rows

HEAD_BYTES = 1024**2
"""Size of the part of a file from which its structure and columns are detected."""

BYTE_ORDER_MARK = "\ufeff".encode()

UNSUPPORTED = {
    b"\xff\xfe": "UTF-16 text. Save it as UTF-8",
    b"\xfe\xff": "UTF-16 text. Save it as UTF-8",
    b"\x28\xb5\x2f\xfd": "compressed with zstd. Compress it with gzip instead",
    b"\xfd7zXZ\x00": "compressed with xz. Compress it with gzip instead",
    b"BZh": "compressed with bzip2. Compress it with gzip instead",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file. Save the table as CSV",
    b"%PDF": "a PDF file. Upload its text in one of the formats of the user guide",
    b"ARROW1": "an Arrow file. Write it as Parquet",
    b"SQLite": "an SQLite database. Export the table as CSV",
}
TAR = b"ustar"
SPREAD = (
    "The file has a JSON object that spans several lines. EcoLink needs JSON Lines, with one JSON "
    "object per line, or a JSON array of objects. Convert the file with this command: jq -c . "
    "data.json > data.jsonl"
)

JSONL = "JSONL"


class Head:
    """The first bytes of a file, and then the rest of it.

    If `chunks` raise Refused within the first bytes, `all_chunks` raises it after them.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._rest, self._error = iter(chunks), None
        kept = bytearray()
        self.is_whole = False
        try:
            while len(kept) < HEAD_BYTES:
                chunk = next(self._rest, None)
                if chunk is None:
                    self.is_whole = True
                    break
                kept += chunk
        except Refused as error:
            self._error = error
        self.content = bytes(kept)

    def all_chunks(self) -> Iterator[bytes]:
        """Yield the whole file."""
        yield self.content
        if self._error is not None:
            raise self._error
        yield from self._rest


def table_of(head: Head, max_row_bytes: int) -> Table | None:
    """Return the rows of a text file; None for JSON Lines. Refused formats raise an error."""
    content = head.content
    for magic, what in UNSUPPORTED.items():
        if content.startswith(magic):
            raise _unsupported(f"The file seems to be {what}.")
    text = content[:HEAD_BYTES].removeprefix(BYTE_ORDER_MARK)
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line), b"")
    second = next((line for line in lines if line), b"")
    if not first:
        return None
    chunks = head.all_chunks()
    if first.startswith(b"["):
        inside = first[1:].lstrip()
        if not inside or inside.startswith((b"{", b"]")):
            rows = array_rows(_without_mark(chunks), max_row_bytes)
            return Table("JSON array", ROW, rows)
        return None
    if first.startswith(b"{"):
        if first == b"{" and second.startswith(b'"'):
            raise _unsupported(SPREAD)
        return None
    if content[257:262] == TAR:
        raise _unsupported("The file is a tar archive. Upload the file in it.")
    shown = text.decode("utf-8", errors="replace")
    if starts_message(first.decode("utf-8", errors="replace")):
        return Table("transcript", LINE, transcript_rows(chunks, max_row_bytes), ("messages",))
    dialect = dialect_of(shown.lstrip("\r\n"), is_whole=head.is_whole)
    if dialect is None:
        return None
    rows = table_rows(chunks, dialect, max_row_bytes)
    return Table(dialect.format, ROW, rows, dialect.names, positional=True)


def _without_mark(chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield next(chunks, b"").removeprefix(BYTE_ORDER_MARK)
    yield from chunks


def _unsupported(message: str) -> Refused:
    return Refused(Code.UNSUPPORTED_FILE, message)
