"""Detection of files that are not JSON Lines, to report one error instead of one per line."""

from __future__ import annotations

from typing import NoReturn

from services.datasets.report import Code, Refused

UNSUPPORTED = {
    b"\xff\xfe": "UTF-16 text. Save it as UTF-8",
    b"\xfe\xff": "UTF-16 text. Save it as UTF-8",
    b"\x1f\x8b": "compressed with gzip. Upload the unpacked JSONL file",
    b"\x28\xb5\x2f\xfd": "compressed with zstd. Upload the unpacked JSONL file",
    b"PK\x03\x04": "a zip archive. Upload the unpacked JSONL file",
    b"PAR1": "a Parquet file. Convert it to JSONL",
}
TAKEN = "EcoLink needs JSON Lines, with one JSON object per line."
ARRAY = (
    f"The file is a JSON array. {TAKEN} Convert the file with this command: jq -c '.[]' "
    "data.json > data.jsonl"
)
SPREAD = (
    f"The file has a JSON object that spans several lines. {TAKEN} Convert the file with this "
    "command: jq -c . data.json > data.jsonl"
)
TABLE = (
    f"The file seems to be a table (CSV). {TAKEN} Write each row on its own line as "
    '{"prompt": "...", "completion": "..."}, for example with Python\'s csv and json modules.'
)
DELIMITERS = (b",", b";", b"\t")
BYTE_ORDER_MARK = "\ufeff".encode()
LOOKED_AT_BYTES = 64 * 1024


class FormatCheck:
    """A check of the first two non-blank lines. It raises Refused if they are not JSON Lines."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._first = True

    def take(self, content: bytes) -> None:
        """Check the next line of the file."""
        if len(self._lines) == 2:
            return
        if self._first:
            for magic, what in UNSUPPORTED.items():
                if content.startswith(magic):
                    _refuse(f"The file is not JSONL in UTF-8. It seems to be {what}.")
            content, self._first = content.removeprefix(BYTE_ORDER_MARK), False
        text = content[:LOOKED_AT_BYTES].strip()
        if not text:
            return
        self._lines.append(text)
        if len(self._lines) == 1 and text.startswith(b"["):
            inside = text[1:].lstrip()
            # A list may continue on the next line.
            goes_on = not inside and len(content) <= LOOKED_AT_BYTES
            if inside.startswith(b"{") or goes_on:
                _refuse(ARRAY)
        if len(self._lines) == 2:
            first, second = self._lines
            if first == b"{" and second.startswith(b'"'):
                _refuse(SPREAD)
            delimiter = _delimiter(first)
            if delimiter is not None and delimiter in second and not second.startswith(b"{"):
                _refuse(TABLE)

    def finish(self) -> None:
        """Check a file that has only one line. Call this after the last line."""
        if len(self._lines) == 1 and _delimiter(self._lines[0]) is not None:
            _refuse(TABLE)


def _delimiter(header: bytes) -> bytes | None:
    """Return the delimiter of a table's header; None if the line is not a header."""
    if header[:1] in b"{[" or len(header) > 1000:
        return None
    for delimiter in DELIMITERS:
        names = [name.strip().strip(b'"').strip() for name in header.split(delimiter)]
        if len(names) > 1 and all(_is_name(name) for name in names):
            return delimiter
    return None


def _is_name(name: bytes) -> bool:
    text = name.decode(errors="replace")
    return 0 < len(text) <= 40 and all(char.isalnum() or char in " _-." for char in text)


def _refuse(message: str) -> NoReturn:
    raise Refused(Code.UNSUPPORTED_FILE, message)
