"""Unpacking of uploads that are compressed with gzip or are a zip archive, within limits."""

from __future__ import annotations

import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, TypeVar, cast

from infrastructure import extras
from services.datasets.ndjson import in_words
from services.datasets.report import Code, Refused, quoted

CHUNK_BYTES = 1024**2
MOST_RATIO = 200
"""Maximum size of an unpacked file, as a multiple of the upload. Text rarely exceeds 30."""

RATIO_FROM_BYTES = 64 * 1024**2
"""Size of an unpacked file up to which its ratio does not matter."""

MOST_LAYERS = 2
NAMES_SHOWN = 3
GZIP, ZIP, PARQUET = b"\x1f\x8b", (b"PK\x03\x04", b"PK\x05\x06"), b"PAR1"

T = TypeVar("T")

DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, ValueError)
"""Errors of damaged gzip and zip files."""


class Unpacked(NamedTuple):
    """An upload without its packing: either its bytes, or the path of a Parquet file.

    `packing` is what the report adds to the format, such as ` in gzip`. `position` returns how many
    bytes of the upload were read.
    """

    chunks: Iterator[bytes] | None
    parquet: Path | None
    packing: str
    position: Callable[[], int]


class Sizes(NamedTuple):
    """Maximum sizes in bytes of an upload, and of its unpacked content."""

    upload: int
    unpacked: int


def unpack(path: Path, directory: Path, sizes: Sizes) -> Unpacked:
    """Open an upload and find out how it is packed.

    A packed Parquet file is unpacked into `directory`, which the caller deletes. The file names in
    archives do not matter. Raise Refused if the packing is damaged or not supported. The chunks
    raise Refused for damaged data and beyond a limit.
    """
    size = path.stat().st_size
    if size > sizes.upload:
        raise Refused(
            Code.FILE_TOO_LARGE,
            f"The file is larger than the limit of {in_words(sizes.upload)}. Split it, or ask the "
            "operator for a higher limit.",
        )
    file = path.open("rb")
    stream, packing = cast(BinaryIO, file), ""
    layers = 0
    while (magic := _magic(stream, packing)).startswith((GZIP, *ZIP)):
        layers += 1
        if layers > MOST_LAYERS:
            raise _unsupported("The file is packed several times. Upload the file inside.")
        if magic.startswith(GZIP):
            stream, packing = (
                cast(BinaryIO, gzip.GzipFile(fileobj=stream, mode="rb")),
                f"{packing} in gzip",
            )
        elif magic.startswith(ZIP):
            if packing:
                raise _unsupported(
                    "The file is a zip archive inside another file. Upload it alone."
                )
            stream, name = _only_file(stream)
            packing = f" in zip ({name})"
        else:
            break

    position = _Position(file, size)
    if magic.startswith(PARQUET):
        if extras.missing(extras.PARQUET):
            raise _unsupported(
                "This installation cannot read Parquet files. Upload JSON Lines or CSV, or ask "
                "your operator to install the extra `parquet`."
            )
        if not packing:
            return Unpacked(None, path, "", position)
        spilled = directory / "unpacked.parquet"
        with spilled.open("wb") as target:
            for chunk in _chunks(stream, packing, position, sizes.unpacked):
                target.write(chunk)
        return Unpacked(None, spilled, packing, position)
    return Unpacked(_chunks(stream, packing, position, sizes.unpacked), None, packing, position)


class _Position:
    """The number of bytes of an upload that were read."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.ended = False

    def __call__(self) -> int:
        return self._size if self.ended else min(self._size, self._file.tell())


def _magic(stream: BinaryIO, packing: str) -> bytes:
    """Return the first bytes of a stream, without taking them from it."""
    return _guarded(lambda: stream.peek(8)[:8], packing)  # type: ignore[attr-defined]


def _chunks(stream: BinaryIO, packing: str, position: _Position, max_bytes: int) -> Iterator[bytes]:
    """Yield the content of a stream. Only packed content has a limit here."""
    total = 0
    while chunk := _guarded(lambda: stream.read(CHUNK_BYTES), packing):
        total += len(chunk)
        if packing:
            _check_size(total, position(), max_bytes)
        yield chunk
    position.ended = True


def _check_size(total: int, read: int, max_bytes: int) -> None:
    if total > max_bytes:
        raise Refused(
            Code.FILE_TOO_LARGE,
            f"The file is larger than the limit of {in_words(max_bytes)} when it is unpacked. "
            "Split it, or ask the operator for a higher limit.",
        )
    if total > RATIO_FROM_BYTES and total > MOST_RATIO * read:
        raise Refused(
            Code.COMPRESSED_TOO_MUCH,
            f"The unpacked file is more than {MOST_RATIO} times as large as the upload. Remove "
            "repeated data, or upload the unpacked file.",
        )


def _only_file(stream: BinaryIO) -> tuple[BinaryIO, str]:
    """Open the only file of a zip archive. Return it with its quoted name."""
    archive = _guarded(lambda: zipfile.ZipFile(stream), " in zip")
    files = [each for each in archive.infolist() if not _is_hidden(each)]
    names = [quoted(each.filename) for each in files[:NAMES_SHOWN]]
    if any(each.filename == "[Content_Types].xml" for each in files):
        raise _unsupported("The file seems to be an Excel or Word file. Save the table as CSV.")
    if len(files) != 1:
        found = f"{len(files):,} files ({', '.join(names)})" if files else "no files"
        raise _unsupported(f"The zip archive has {found}. Put exactly one file in it.")
    if files[0].flag_bits & 1:
        raise _unsupported(
            f"The file {names[0]} in the zip archive is encrypted. Do not encrypt it."
        )
    try:
        opened = _guarded(lambda: archive.open(files[0]), " in zip")
    except NotImplementedError:
        raise _unsupported(
            f"The file {names[0]} in the zip archive has an unknown compression. Use Deflate."
        ) from None
    return cast(BinaryIO, opened), names[0]


def _is_hidden(entry: zipfile.ZipInfo) -> bool:
    """Return True for folders, and for files that macOS and Windows add."""
    path = PurePosixPath(entry.filename)
    hidden = path.name.startswith(".") or path.parts[:1] == ("__MACOSX",)
    return entry.is_dir() or hidden or path.name in ("Thumbs.db", "desktop.ini")


def _guarded(read: Callable[[], T], packing: str) -> T:
    try:
        return read()
    except (NotImplementedError, MemoryError):
        raise
    except (*DAMAGED, RuntimeError) as error:
        if not packing:
            raise
        raise Refused(
            Code.DAMAGED_FILE,
            f"The file{packing} is damaged or incomplete ({' '.join(str(error).split())[:100]}). "
            "Pack it again.",
        ) from None


def _unsupported(message: str) -> Refused:
    return Refused(Code.UNSUPPORTED_FILE, message)
