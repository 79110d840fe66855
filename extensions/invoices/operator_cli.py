"""`ecolink audit invoice`, which makes invoices and verifies them, and `ecolink audit what-if`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.table import Table

from deploy.local.errors import StackError
from deploy.local.stack import database
from domain.audit.tree_head import InvalidHead, LogKey
from domain.core.money import decimals_of, exact_dollars
from extensions.invoices.audited_period import From, Month, Until, period_between
from extensions.invoices.domain.invoice import Invoice, Period
from extensions.invoices.domain.money_events import Inconsistent
from extensions.invoices.domain.sealed_invoice import Result, Verification, verify_invoice
from extensions.invoices.invoice_file import verify_file
from extensions.invoices.issuer import Issuer
from extensions.invoices.what_if.command import what_if
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import AsJson, fail, screen
from infrastructure.accounts.profiles import account_id_of
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import Connection, connect
from infrastructure.seals.archive import SealArchive, SealDamaged, load_key, origin_of
from infrastructure.seals.tree import NotProvable
from infrastructure.settings import Settings

invoice_commands = typer.Typer(
    no_args_is_help=True, help="Make invoices from the event log, and verify them offline."
)
commands = typer.Typer(name="audit")
commands.add_typer(invoice_commands, name="invoice")
commands.command("what-if")(what_if)

Out = Annotated[
    Path,
    typer.Option(
        dir_okay=False, help="File to write. Its name ends in .pdf or .json.", show_default=False
    ),
]

NOT_COMPLETE = (
    "The invoice is NOT proven to be complete. The file has no event of the account after the "
    "period, so the account's last events in the period, such as credits, could be missing. "
    "Ask for the invoice again after the account's next event."
)

EXIT_CODES = {
    Result.PROVEN: ExitCode.DONE,
    Result.COMPLETENESS_NOT_PROVEN: ExitCode.NOT_PROVEN,
    Result.FAILED: ExitCode.FAILED,
}
"""Exit codes of a verification."""


@invoice_commands.command()
def create(
    account: Annotated[str, typer.Argument(help="Name or ID of the account.", show_default=False)],
    out: Out,
    period: Month = None,
    start: From = None,
    end: Until = None,
) -> None:
    """Calculate an account's invoice from the event log alone, with proofs and a signature.

    Pass --period, or both --from and --until. A PDF carries the JSON file inside.
    """
    try:
        if out.suffix not in (".pdf", ".json"):
            raise ValueError(f"--out is {out}. Enter a name that ends in .pdf or .json.")
        wanted = _period(period, start, end)
        with database(Settings()) as settings, connect(settings) as store:
            issuer = _issuer(settings, store)
            content = issuer.issue(_account_id(store, account), wanted, datetime.now(UTC))
        out.write_bytes(issuer.as_pdf(content) if out.suffix == ".pdf" else content)
    except (
        *(StackError, NotProvable, Inconsistent, SealDamaged, InvalidHead),
        *(ValueError, OSError),
    ) as error:
        fail(str(error), ExitCode.FAILED)
    screen().print(f"Wrote {out}. `ecolink audit invoice verify {out}` verifies it.")
    if verify_invoice(content, issuer.log_key).result is Result.COMPLETENESS_NOT_PROVEN:
        screen().print(NOT_COMPLETE, style="yellow")


@invoice_commands.command()
def verify(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="Invoice, PDF or JSON.", show_default=False
        ),
    ],
    public_key: Annotated[
        str, typer.Option(help="Public key of the log, as `ecolink audit key` printed it.")
    ],
    as_json: AsJson = False,
) -> None:
    """Verify an invoice offline: its signature, the proof of each event, and all its figures.

    The exit status is 1 if anything fails, and 9 if only completeness is not proven: the account
    has no event after the period, so its last events in the period could be missing.
    """
    try:
        content = file.read_bytes()
        verified = verify_file(content, LogKey.parse(public_key))
    except (ValueError, OSError) as error:
        fail(str(error), ExitCode.FAILED)
    if as_json:
        typer.echo(json.dumps(_document(verified), indent=1))
    else:
        _show(verified, is_pdf=content.startswith(b"%PDF-"))
    raise typer.Exit(EXIT_CODES[verified.result])


def _period(month: str | None, start: datetime | None, end: datetime | None) -> Period:
    """Return the period that the options name. Raise ValueError unless it is over."""
    if month is not None and start is None and end is None:
        wanted = Period.month(month)
    elif month is None and start is not None and end is not None:
        wanted = period_between(start, end)
    else:
        raise ValueError("Pass either --period, or both --from and --until.")
    if wanted.end > datetime.now(UTC):
        raise ValueError(
            f"The period ends at {wanted.end:%Y-%m-%d %H:%M} UTC, which is in the future. For an "
            "interim invoice, pass --from and an --until in the past."
        )
    return wanted


def _issuer(settings: Settings, store: Connection) -> Issuer:
    try:
        key = load_key(settings.seal_key_file)
    except FileNotFoundError as error:
        raise ValueError(
            f"There is no key file {settings.seal_key_file}. The sealer makes it at its first "
            "start. Make invoices on the host that has it."
        ) from error
    archive = SealArchive(Artifacts(settings.artifacts))
    return Issuer(store, archive, key, origin_of(log_identity(store)))


def _account_id(store: Connection, account: str) -> UUID:
    """Return the ID of an account. Raise ValueError if there is none with the name."""
    found = account_id_of(store, account)
    if found is None:
        raise ValueError(f"Unknown account {account!r}. See `ecolink accounts list`.")
    return found


def _document(verified: Verification) -> dict[str, object]:
    invoice, head = verified.invoice, verified.head
    return {
        "result": verified.result,
        "failures": verified.failures,
        "invoice": invoice.model_dump(mode="json") if invoice else None,
        "events": verified.events,
        "size": head.size if head else None,
        "root": head.root.hex() if head else None,
        "sealed_at": head.sealed_at.isoformat() if head else None,
        "is_complete": verified.result is Result.PROVEN,
    }


def _show(verified: Verification, *, is_pdf: bool) -> None:
    console = screen()
    if verified.result is Result.FAILED:
        for failure in verified.failures:
            console.print(failure, style="red")
        console.print("The invoice is NOT proven.", style="red")
        return
    invoice, head = verified.invoice, verified.head
    assert invoice is not None
    assert head is not None
    period = invoice.period
    console.print(
        f"Account {invoice.account_id}, {period.start:%Y-%m-%d %H:%M} to "
        f"{period.end:%Y-%m-%d %H:%M} UTC, lines: {len(invoice.lines):,}"
    )
    console.print(_table(invoice))
    console.print(
        f"The signature is valid. {verified.events} events are proven to be in the log of "
        f"{head.size} events, sealed at {head.sealed_at:%Y-%m-%d %H:%M:%S} UTC with root "
        f"{head.root.hex()}. They give exactly these figures."
    )
    if is_pdf:
        console.print(
            "The pages of the PDF are as the log's key signed them. The figures above were "
            "calculated from the data in the file; compare the pages with them."
        )
    if verified.result is Result.PROVEN:
        console.print("No event of the account in the period is missing.")
        console.print("The invoice is proven.", style="green")
    else:
        console.print(NOT_COMPLETE, style="yellow")


def _table(invoice: Invoice) -> Table:
    """Return the figures of an invoice."""
    amounts = {
        "opening balance": invoice.opening_micros,
        "top-ups": invoice.top_ups_micros,
        "refunds": invoice.refunds_micros,
        "credits": invoice.credits_micros,
        "charges": -invoice.charges_micros,
        "credits for lost work": invoice.lost_work_micros,
        "closing balance": invoice.closing_micros,
    }
    decimals = decimals_of(amounts.values())
    table = Table(box=None, show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    for name, micros in amounts.items():
        table.add_row(name, exact_dollars(micros, decimals))
    return table
