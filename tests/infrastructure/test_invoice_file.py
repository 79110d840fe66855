"""Invoices as PDF: the embedded data, and the signature of every byte."""

from __future__ import annotations

import re
from random import Random

import pytest

from domain.audit.sealed_invoice import SealedInvoice, seal_invoice
from domain.core.event_log import EventLog
from infrastructure.invoice_file import EMBEDDED, verify_file
from infrastructure.invoice_pdf import invoice_pdf
from tests.builders.bills import KEY, ORIGIN, PUBLIC, invoice_file, two_months

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


def test_a_change_outside_the_data_is_told_from_one_inside(pdf: bytes) -> None:
    outside = pdf.replace(b"(helvetica)", b"(x)").replace(b"/Helvetica", b"/Helvetic_", 1)
    (failure,) = verify_file(outside, PUBLIC).failures
    assert "its data is intact" in failure
    found = EMBEDDED.search(pdf)
    assert found is not None
    inside = bytearray(pdf)
    inside[found.end() + 40] ^= 1
    first, second = verify_file(bytes(inside), PUBLIC).failures[:2]
    assert "fails too" in first
    assert "invoice" in second


@pytest.mark.parametrize("change", ["added", "cut", "unsigned"])
def test_added_or_missing_bytes_fail(pdf: bytes, change: str) -> None:
    unsigned = pdf[: pdf.rindex(b"%")]
    other = {"added": pdf + b"\n", "cut": pdf[:-1], "unsigned": unsigned}[change]
    assert verify_file(other, PUBLIC).failures


def test_a_pdf_without_data_fails(pdf: bytes) -> None:
    failures = verify_file(b"%PDF-1.4\n", PUBLIC).failures
    assert any("invoice.json" in failure for failure in failures)
