"""Verification of invoice files, JSON or PDF.

The last line of a PDF is a comment with the signature of all bytes before it. The pages show the
figures of the JSON file in the PDF. Only that file can be calculated again. It is read only if the
signature is valid, because a changed file could fill the memory.
"""

from __future__ import annotations

import re
import zlib
from hashlib import sha256

from domain.audit.tree_head import LogKey
from extensions.invoices.domain.sealed_invoice import Verification, verify_invoice

FILE_NAME = "invoice.json"
EXPANSION = 32
"""Upper limit of the embedded file, in multiples of the PDF. Invoices expand less than tenfold."""

EMBEDDED = re.compile(
    rb"<<\n/Filter /FlateDecode\n/Length (\d{1,12})\n(?:/[^\n]*\n){1,6}?"
    rb"/Type /EmbeddedFile\n>>\nstream\n"
)
"""Start of the embedded file, as fpdf2 writes it."""


def verify_file(content: bytes, key: LogKey) -> Verification:
    """Verify an invoice file, JSON or PDF, with nothing but the log's public key."""
    if not content.startswith(b"%PDF-"):
        return verify_invoice(content, key)
    lines, _, last = content.removesuffix(b"\n").rpartition(b"\n")
    body = lines + b"\n"
    line = last.removeprefix(b"%").decode(errors="replace")
    is_whole = content == body + b"%" + line.encode() + b"\n"
    is_signed = is_whole and key.has_signed(signed_pdf_text(body), line)
    if not is_signed:
        failure = (
            f"The signature of the PDF is not of the key of {key.origin}: a byte of the PDF was "
            f"changed, or another key signed it. The file {FILE_NAME} in it was not read."
        )
        return Verification(failures=[failure])
    embedded = _embedded(content)
    if embedded is None:
        return Verification(failures=[f"The PDF has no readable file {FILE_NAME} in it."])
    return verify_invoice(embedded, key)


def signed_pdf_text(body: bytes) -> str:
    """Return the text that is signed for a PDF, of which `body` is everything but the last line."""
    return f"ecolink invoice PDF\nsha256 {sha256(body).hexdigest()}\n"


def _embedded(content: bytes) -> bytes | None:
    found = EMBEDDED.search(content)
    if found is None:
        return None
    stream = content[found.end() : found.end() + int(found[1])]
    reader = zlib.decompressobj()
    try:
        embedded = reader.decompress(stream, EXPANSION * len(content))
    except zlib.error:
        return None
    return embedded if reader.eof else None
