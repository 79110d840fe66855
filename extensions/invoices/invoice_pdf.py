"""Invoices as PDF: A4 pages that carry the JSON file, with a signature of the whole file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fpdf import FPDF
from fpdf.enums import XPos, YPos
from fpdf.fonts import FontFace

from domain.audit.tree_head import LogKey, TreeHead, signature_line
from domain.core.money import decimals_of, exact_dollars
from extensions.invoices.domain.invoice import Invoice, Line
from extensions.invoices.domain.sealed_invoice import SealedInvoice
from extensions.invoices.invoice_file import FILE_NAME, signed_pdf_text

PAGE_COUNT = "\x1f\x1f"
"""Placeholder of the number of pages. No printed text contains it: `_latin` escapes it."""

FONT, INK, PALE = "helvetica", (20, 20, 30), (110, 110, 120)
TEXT_POINTS, SMALL_POINTS, TITLE_POINTS = 9, 7.5, 20


class _Pages(FPDF):
    """A4 pages with a footer."""

    def __init__(self, footer: str) -> None:
        super().__init__(format="A4")
        self._footer = footer
        self.alias_nb_pages(PAGE_COUNT)
        self.set_margin(18)
        self.set_auto_page_break(True, margin=20)

    def footer(self) -> None:
        """Print the footer of a page. The library calls it."""
        self.set_y(-14)
        self.set_font(FONT, size=SMALL_POINTS)
        self.set_text_color(*PALE)
        self.cell(text=self._footer)
        self.cell(w=0, text=f"Page {self.page_no()} of {PAGE_COUNT}", align="R")

    def heading(self, text: str) -> None:
        self.ln(5)
        self.set_font(FONT, "B", 11)
        self.set_text_color(*INK)
        self.cell(text=text, new_x=XPos.LMARGIN, new_y=YPos.NEXT, h=7)

    def paragraph(self, text: str, points: float = TEXT_POINTS) -> None:
        self.set_font(FONT, size=points)
        self.set_text_color(*PALE)
        self.multi_cell(w=0, h=0.5 * points, text=_latin(text), new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def rows(
        self,
        rows: Sequence[Sequence[str]],
        widths: Sequence[int],
        *,
        headed: bool = True,
        summed: bool = True,
    ) -> None:
        """Print a table. A width is negative if its column is aligned to the right.

        The first row has the headings if `headed`, and the last row the totals if `summed`.
        """
        self.set_font(FONT, size=SMALL_POINTS)
        self.set_text_color(*INK)
        self.set_draw_color(200, 200, 205)
        with self.table(
            align="LEFT",
            borders_layout="HORIZONTAL_LINES",
            col_widths=[abs(width) for width in widths],
            first_row_as_headings=headed,
            headings_style=FontFace(emphasis="B", color=PALE),
            line_height=4.6,
            text_align=["RIGHT" if width < 0 else "LEFT" for width in widths],
            width=sum(abs(width) for width in widths),
        ) as table:
            for number, row in enumerate(rows, start=1):
                style = FontFace(emphasis="B") if summed and number == len(rows) else None
                table.row([_latin(cell) for cell in row], style=style)
        self.ln(1)


def invoice_pdf(content: bytes, key: Ed25519PrivateKey, log_key: LogKey) -> bytes:
    """Return the PDF file of an invoice's JSON file. The same input gives the same bytes."""
    document = SealedInvoice.model_validate_json(content)
    head = log_key.verify(document.head)
    pages = _draw(document, head)
    pages.set_creation_date(head.sealed_at)
    pages.embed_file(
        bytes=content,
        basename=FILE_NAME,
        desc="Signed invoice with the events and proofs that it rests on",
        mime_type="application/json",
        modification_date=head.sealed_at,
        associated_file_relationship="Source",
        compress=True,
    )
    body = bytes(pages.output())
    line = signature_line(log_key.origin, key, signed_pdf_text(body))
    return body + f"%{line}\n".encode()


def _draw(document: SealedInvoice, head: TreeHead) -> _Pages:
    invoice = document.invoice
    pages = _Pages(f"Account {invoice.account_id}")
    pages.set_title(f"Invoice {_period(invoice)}")
    pages.set_lang("en")
    pages.add_page()
    pages.set_font(FONT, "B", TITLE_POINTS)
    pages.set_text_color(*INK)
    pages.cell(text="Invoice", new_x=XPos.LMARGIN, new_y=YPos.NEXT, h=10)
    pages.paragraph(
        f"Account {invoice.account_id}\n{_period(invoice)}\n"
        f"All amounts are in {invoice.currency}, exact to a millionth."
    )
    pages.heading("Balance")
    pages.rows(_summary(invoice), (70, -40), headed=False)
    pages.heading("Charges by job")
    if invoice.lines:
        pages.rows(_lines(invoice), (62, 26, -18, -18, -25, -25))
        pages.paragraph(
            "A job has one line for each rate. The rate is per hour, for all GPUs of the job. "
            "Credits are for work that the platform lost.",
            SMALL_POINTS,
        )
    elif not invoice.tokens:
        pages.paragraph("No charges in this period.")
    if invoice.tokens:
        pages.heading("Charges for tokens of generated datasets")
        pages.rows(_tokens(invoice), (74, -22, -22, -20, -20, -22))
        pages.paragraph("Rates are per million tokens.", SMALL_POINTS)
    pages.heading("Top-ups and credits")
    if invoice.paid_in:
        pages.rows(_paid_in(invoice), (34, 20, 26, 62, -32), summed=False)
    else:
        pages.paragraph("No top-ups or credits in this period.")
    pages.heading("Proof")
    pages.paragraph(
        f"Every amount follows from {len(document.events)} events of the log {head.origin}. Its "
        f"signed head of {head.sealed_at:%Y-%m-%d %H:%M:%S} UTC covers {head.size} events and has "
        f"the root\n{head.root.hex()}\n"
        f"The attached file {FILE_NAME} contains the events, their inclusion proofs (RFC 9162) "
        "and the signature. To verify this file offline:\n"
        "ecolink audit invoice verify FILE --public-key KEY",
        SMALL_POINTS,
    )
    return pages


def _period(invoice: Invoice) -> str:
    period = invoice.period
    return f"{period.start:%Y-%m-%d %H:%M} to {period.end:%Y-%m-%d %H:%M} UTC"


def _summary(invoice: Invoice) -> list[list[str]]:
    amounts = {
        "Opening balance": invoice.opening_micros,
        "Top-ups": invoice.top_ups_micros,
        "Refunds": invoice.refunds_micros,
        "Credits": invoice.credits_micros,
        "Charges": -invoice.charges_micros,
        "Credits for lost work": invoice.lost_work_micros,
        "Closing balance": invoice.closing_micros,
    }
    decimals = decimals_of(amounts.values())
    return [[name, exact_dollars(micros, decimals)] for name, micros in amounts.items()]


def _lines(invoice: Invoice) -> list[list[str]]:
    lines = invoice.lines
    decimals = decimals_of(
        micros for each in lines for micros in (each.amount_micros, each.credited_micros)
    )
    rates = decimals_of(each.rate_micros_per_hour for each in lines)
    return [
        ["Job", "GPU type", "Rate", "Seconds", "Amount", "Lost work"],
        *(row for each in lines for row in _rows(each, decimals, rates)),
        [
            *("Total", "", ""),
            f"{sum(each.seconds for each in lines):,}",
            exact_dollars(sum(each.amount_micros for each in lines), decimals),
            exact_dollars(-invoice.lost_work_micros, decimals) if invoice.lost_work_micros else "",
        ],
    ]


def _rows(line: Line, decimals: int, rates: int) -> Iterator[list[str]]:
    """Yield the row of a line, and one for the time that the price guarantee covers."""
    rate = exact_dollars(line.rate_micros_per_hour, rates)
    yield [
        f"ftjob-{line.job_id}",
        line.gpu_type,
        rate,
        f"{line.seconds - line.covered_seconds:,}",
        exact_dollars(line.amount_micros, decimals),
        exact_dollars(-line.credited_micros, decimals) if line.credited_micros else "",
    ]
    if line.covered_seconds:
        name, covered = f"ftjob-{line.job_id}, price guarantee", f"{line.covered_seconds:,}"
        yield [name, line.gpu_type, rate, covered, exact_dollars(0, decimals), ""]


def _tokens(invoice: Invoice) -> list[list[str]]:
    lines = invoice.tokens
    decimals = decimals_of(each.amount_micros for each in lines)
    rates = decimals_of(
        micros for each in lines for micros in (each.prompt_micros, each.completion_micros)
    )
    return [
        ["Synthesis", "Read", "Generated", "Rate", "Rate", "Amount"],
        *(
            [
                str(each.synthesis_id),
                f"{each.prompt_tokens:,}",
                f"{each.completion_tokens:,}",
                exact_dollars(each.prompt_micros, rates),
                exact_dollars(each.completion_micros, rates),
                exact_dollars(each.amount_micros, decimals),
            ]
            for each in lines
        ),
        [
            "Total",
            f"{sum(each.prompt_tokens for each in lines):,}",
            f"{sum(each.completion_tokens for each in lines):,}",
            *("", ""),
            exact_dollars(sum(each.amount_micros for each in lines), decimals),
        ],
    ]


def _paid_in(invoice: Invoice) -> list[list[str]]:
    decimals = decimals_of(each.amount_micros for each in invoice.paid_in)
    return [
        ["Time (UTC)", "Kind", "Provider", "Reference", "Amount"],
        *(
            [
                f"{each.at:%Y-%m-%d %H:%M:%S}",
                each.kind,
                each.provider or "",
                each.reference,
                exact_dollars(each.amount_micros, decimals),
            ]
            for each in invoice.paid_in
        ),
    ]


def _latin(text: str) -> str:
    """Return a text for the PDF's fonts, with other characters escaped as in Python."""
    visible = "".join(
        each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text
    )
    return visible.encode("latin-1", "backslashreplace").decode("latin-1")
