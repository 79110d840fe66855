"""Invoices as PDF: the embedded data, and the signature of every byte."""

from __future__ import annotations

import re
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from random import Random

import pytest

from domain.audit.tree_head import signature_line
from domain.core.event_log import EventLog
from extensions.invoices.domain.sealed_invoice import (
    Result,
    SealedInvoice,
    Verification,
    seal_invoice,
)
from extensions.invoices.invoice_file import EMBEDDED, signed_pdf_text, verify_file
from extensions.invoices.invoice_pdf import invoice_pdf
from tests.extensions.invoices.bills import KEY, ORIGIN, PUBLIC, invoice_file, two_months

FLIPS = 400


@pytest.fixture(scope="module")
def content() -> bytes:
    return invoice_file(two_months(EventLog()).log)


@pytest.fixture(scope="module")
def pdf(content: bytes) -> bytes:
    return invoice_pdf(content, KEY, PUBLIC)


def test_an_untouched_pdf_is_proven(pdf: bytes, content: bytes) -> None:
    verified = verify_file(pdf, PUBLIC)
    assert verified.failures == []
    assert verified == verify_file(content, PUBLIC)


def test_the_same_invoice_gives_the_same_pdf(pdf: bytes, content: bytes) -> None:
    assert invoice_pdf(content, KEY, PUBLIC) == pdf


def test_pages_are_a4(pdf: bytes) -> None:
    assert b"/MediaBox [0 0 595.28 841.89]" in pdf


def test_many_lines_fill_several_pages(content: bytes) -> None:
    document = SealedInvoice.model_validate_json(content)
    invoice = document.invoice
    longer = invoice.model_copy(update={"lines": invoice.lines * 100})
    long = invoice_pdf(seal_invoice(longer, document.head, [], ORIGIN, KEY), KEY, PUBLIC)
    found = re.search(rb"/Count (\d+)", long)
    assert found is not None
    assert int(found[1]) > 3


def test_a_changed_byte_fails(pdf: bytes) -> None:
    chance = Random(1)
    for _ in range(FLIPS):
        changed = bytearray(pdf)
        place = chance.randrange(len(pdf))
        changed[place] ^= 1 << chance.randrange(8)
        assert verify_file(bytes(changed), PUBLIC).failures, place


def with_data(pdf: bytes, data: bytes) -> bytes:
    """Return a PDF with other embedded data and the old signature."""
    found = EMBEDDED.search(pdf)
    assert found is not None
    start = found[0].replace(b"/Length " + found[1], b"/Length %d" % len(data))
    return pdf[: found.start()] + start + data + pdf[found.end() + int(found[1]) :]


def signed(pdf: bytes) -> bytes:
    """Sign a changed PDF as one who has the key."""
    body = pdf[: pdf.rindex(b"%")]
    return body + f"%{signature_line(ORIGIN, KEY, signed_pdf_text(body))}\n".encode()


def peak_bytes(verified: Callable[[], Verification]) -> tuple[Verification, int]:
    """Return a verification, and the memory that it allocated."""
    tracemalloc.start()
    try:
        return verified(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


BOMB = zlib.compress(bytes(2**28), 9)
"""256 MiB, compressed a thousandfold."""


def test_data_of_a_pdf_with_a_bad_signature_is_not_read(pdf: bytes) -> None:
    for data in (BOMB, b"not compressed", zlib.compress(b"{}")):
        changed = with_data(pdf, data)
        verified, peak = peak_bytes(partial(verify_file, changed, PUBLIC))
        (failure,) = verified.failures
        assert "signature of the PDF" in failure
        assert "not read" in failure
        assert verified.result is Result.FAILED
        assert peak < 2**25


def test_data_that_expands_too_much_fails_even_if_the_key_signed_it(pdf: bytes) -> None:
    verified, peak = peak_bytes(partial(verify_file, signed(with_data(pdf, BOMB)), PUBLIC))
    (failure,) = verified.failures
    assert "no readable file invoice.json" in failure
    assert peak < 2**26


def test_cut_data_fails_even_if_the_key_signed_it(pdf: bytes, content: bytes) -> None:
    cut = signed(with_data(pdf, zlib.compress(content)[:-10]))
    (failure,) = verify_file(cut, PUBLIC).failures
    assert "no readable file invoice.json" in failure


@pytest.mark.parametrize("change", ["added", "cut", "unsigned"])
def test_added_or_missing_bytes_fail(pdf: bytes, change: str) -> None:
    unsigned = pdf[: pdf.rindex(b"%")]
    other = {"added": pdf + b"\n", "cut": pdf[:-1], "unsigned": unsigned}[change]
    assert verify_file(other, PUBLIC).failures


def test_a_pdf_without_data_fails(pdf: bytes) -> None:
    (failure,) = verify_file(signed(pdf.replace(b"/EmbeddedFile\n", b"/Other\n")), PUBLIC).failures
    assert "no readable file invoice.json" in failure


def printed(content: bytes, reference: str) -> str:
    """Return the text of the pages of an invoice with a payment of some reference."""
    document = SealedInvoice.model_validate_json(content)
    invoice = document.invoice
    paid = (invoice.paid_in[0].model_copy(update={"reference": reference}),)
    other = invoice.model_copy(update={"paid_in": paid})
    pdf = invoice_pdf(seal_invoice(other, document.head, [], ORIGIN, KEY), KEY, PUBLIC)
    streams = re.findall(rb"stream\n(.*?)\nendstream", pdf, re.DOTALL)
    pages = b"".join(map(zlib.decompress, streams[:-1]))  # the last one is the JSON file
    return " ".join(each.decode("latin-1") for each in re.findall(rb"\((.*?)\) Tj", pages))


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        ("transfer {nb}", "transfer {nb}"),
        ("Überweisung", "Überweisung"),
        ("送金 7", "\\\\u9001\\\\u91d1 7"),
        ("a\x1f\x1fb", "a\\\\x1f\\\\x1fb"),
    ],
)
def test_a_reference_is_printed_as_it_is_or_escaped(
    content: bytes, reference: str, shown: str
) -> None:
    text = printed(content, reference)
    assert shown in text
    assert "Page 1 of  1" in text  # the number of pages has a text fragment of its own
