"""`ecolink invoices`: invoices of your account, calculated from the event log."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from extensions.invoices.schemas import InvoiceResponse
from gateway.cli.client import Client, ClientError, Reply
from gateway.cli.tables import fields, listing, selected
from gateway.cli.terminal import CommandGroup, client_of, note, show
from gateway.schemas import Listed

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 180.0
"""Maximum wait for the sealer. It issues an invoice within seconds."""

KINDS = (".pdf", ".json")

invoices = CommandGroup(no_args_is_help=True, help="Create, download and list invoices.")


@invoices.command("list")
def list_invoices(client: Client) -> None:
    """List the invoices of your account, the latest period first."""
    show(client.read(Listed[InvoiceResponse], "/invoices"), _rows)


@invoices.command()
def create(
    ctx: typer.Context,
    out: Annotated[
        Path, typer.Option(dir_okay=False, help="File to write. Its name ends in .pdf or .json.")
    ],
    month: Annotated[
        str | None, typer.Option(metavar="MONTH", help="Month in UTC, such as 2026-11.")
    ] = None,
    first: Annotated[str | None, typer.Option(help="First day in UTC.")] = None,
    last: Annotated[str | None, typer.Option(help="Last day in UTC, which is included.")] = None,
) -> None:
    """Create an invoice from the event log, and download it.

    Pass --month, or both --first and --last. `ecolink audit invoice verify` verifies the file.
    """
    if out.suffix not in KINDS:
        raise typer.BadParameter(f"--out is {out}. Enter a name that ends in .pdf or .json.")
    body = {"month": month, "first": first, "last": last}
    with client_of(ctx) as client:
        asked = client.send(InvoiceResponse, "/invoices", body)
        if asked.model.is_complete is False:
            note(
                "The period is not over, so the invoice will not be proven to be complete. "
                "`ecolink audit invoice verify` will end with exit code 9."
            )
        reply = _ready(client, asked)
        _write(client, reply.model, out)
    if not reply.model.is_complete:
        note(
            "The invoice is not proven to be complete, because the account has no later event. "
            "Create it again after the next one."
        )
    show(reply, fields)


def _ready(client: Client, reply: Reply[InvoiceResponse]) -> Reply[InvoiceResponse]:
    """Wait until an invoice is ready. Raise ClientError if it cannot be issued."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while reply.model.is_waiting:
        if time.monotonic() > deadline:
            raise ClientError("The invoice is not ready. Repeat the command in a minute.")
        time.sleep(POLL_SECONDS)
        reply = client.read(InvoiceResponse, f"/invoices/{reply.model.id}")
    if reply.model.status == "failed":
        raise ClientError(f"The invoice could not be issued. {reply.model.problem}")
    return reply


def _write(client: Client, invoice: InvoiceResponse, out: Path) -> None:
    path = f"/invoices/{invoice.id}/invoice{out.suffix}"
    with client.file(path, "") as (_, chunks), out.open("wb") as file:
        file.writelines(chunks)


def _rows(answer: Listed[InvoiceResponse]) -> RenderableType:
    rows = (
        selected(each, "first", "last", "status", "is_complete", "charges", "closing", "problem")
        for each in answer.data
    )
    return listing(rows, empty="There are no invoices. `ecolink invoices create` creates one.")
