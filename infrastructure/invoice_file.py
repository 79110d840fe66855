"""Verification of invoice files, JSON or PDF.

The last line of a PDF is a comment with the signature of all bytes before it. The pages show the
figures of the JSON file in the PDF. Only that file can be calculated again.
"""

from __future__ import annotations

import re
import zlib
from hashlib import sha256

from domain.audit.sealed_invoice import Verification, verify_invoice
from domain.audit.tree_head import LogKey

FILE_NAME = "invoice.json"
MOST_BYTES = 2**30
"""Upper limit of the embedded file. A changed file could otherwise fill the memory."""

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
    embedded = _embedded(content)
    if embedded is None:
        verified = Verification(failures=[f"The PDF has no readable file {FILE_NAME} in it."])
    else:
        verified = verify_invoice(embedded, key)
    if not is_signed:
        data = f"the data in {FILE_NAME} fails too" if verified.failures else "its data is intact"
        verified.failures.insert(
            0,
            f"The signature of the PDF is not of the key of {key.origin}: a byte of the PDF was "
            f"changed, or another key signed it ({data}).",
        )
    return verified


def signed_pdf_text(body: bytes) -> str:
    """Return the text that is signed for a PDF, of which `body` is everything but the last line."""
    return f"ecolink invoice PDF\nsha256 {sha256(body).hexdigest()}\n"


def _embedded(content: bytes) -> bytes | None:
    """Return the embedded JSON file, or None."""
    found = EMBEDDED.search(content)
    if found is None:
        return None
    stream = content[found.end() : found.end() + int(found[1])]
    try:
        return zlib.decompressobj().decompress(stream, MOST_BYTES)
    except zlib.error:
        return None
