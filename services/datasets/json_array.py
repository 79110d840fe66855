"""Reader of a JSON array, with only one chunk and one element in memory."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator

from services.datasets.ndjson import in_words
from services.datasets.report import Code, Refused
from services.datasets.rows import Row

SPACE = " \t\r\n"
_VALUE = json.JSONDecoder()


class _Text:
    """The decoded text of chunks, of which the reader takes parts from the start."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.text = ""
        self.at = 0
        self.ended = False

    def more(self) -> None:
        """Append at least as much text as is left, or the rest of the file."""
        left = self.text[self.at :]
        parts, wanted = [left], max(1, len(left))
        while wanted > 0 and not self.ended:
            chunk = next(self._chunks, None)
            self.ended = chunk is None
            try:
                part = self._decoder.decode(chunk or b"", final=self.ended)
            except UnicodeDecodeError as error:
                raise Refused(
                    Code.BAD_UTF8,
                    f"The file is not valid UTF-8 (byte 0x{error.object[error.start]:02x}). Save "
                    "it as UTF-8.",
                ) from None
            parts.append(part)
            wanted -= len(part)
        self.text, self.at = "".join(parts), 0

    def next_sign(self) -> str:
        """Return the next character that is not white space; "" at the end of the file."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in SPACE:
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()


def array_rows(chunks: Iterable[bytes], max_element_bytes: int) -> Iterator[Row]:
    """Yield the elements of a JSON array as texts, or raise Refused where it is malformed."""
    source = _Text(chunks)
    assert source.next_sign() == "["
    source.at += 1
    number = 0
    if source.next_sign() == "]":
        source.at += 1
    else:
        while True:
            number += 1
            yield Row(text=_element(source, number, max_element_bytes))
            sign = source.next_sign()
            source.at += 1
            if sign == "]":
                break
            if sign != ",":
                found = "ends" if not sign else f"has {sign!r}"
                raise _malformed(f"The array {found} after element {number:,}. Add a comma or a ].")
            if source.next_sign() == "]":
                raise _malformed(f"Element {number:,} is the last one. Remove the comma after it.")
    if source.next_sign():
        raise _malformed("Text follows the JSON array. Remove it.")


def _element(source: _Text, number: int, max_bytes: int) -> bytes:
    source.next_sign()
    while True:
        try:
            _, end = _VALUE.raw_decode(source.text, source.at)
            if end < len(source.text) or source.ended:  # otherwise, a number may go on
                break
        except json.JSONDecodeError as error:
            if source.ended or len(source.text) - source.at > max_bytes:
                column = error.pos - source.at + 1
                raise _malformed(
                    f"Element {number:,} of the array is malformed or longer than "
                    f"{in_words(max_bytes)}: {error.msg} (character {column:,} of the element). "
                    "Correct the file."
                ) from None
        except RecursionError:
            raise Refused(
                Code.TOO_DEEP, f"Element {number:,} is nested too deeply. Use fewer levels."
            ) from None
        except ValueError:
            raise Refused(
                Code.BAD_NUMBER,
                f"A number in element {number:,} has too many digits. Put it in quotes.",
            ) from None
        source.more()
    text = source.text[source.at : end]
    source.at = end
    return text.encode("utf-8", errors="surrogatepass")


def _malformed(message: str) -> Refused:
    return Refused(Code.MALFORMED_JSON, message)
