"""`ecolink billing`: the balance, statements, and every posting."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from gateway.cli import tables
from gateway.cli.terminal import AsJson, client_of, show

billing = typer.Typer(no_args_is_help=True, help="The balance, statements, and every posting.")


class Cut(StrEnum):
    """How a statement is cut."""

    DAYS = "days"
    JOBS = "jobs"


@billing.command()
def balance(ctx: typer.Context, as_json: AsJson = False) -> None:
    """What your account holds, and what of it running jobs have reserved."""
    with client_of(ctx) as client:
        show(client.get("/account"), as_json, tables.fields)


@billing.command("top-up")
def top_up(
    ctx: typer.Context,
    amount: Annotated[str, typer.Argument(help="Dollars, such as 25.00.", show_default=False)],
    reference: Annotated[str, typer.Option(help="The payment's; it counts once.")],
    account: Annotated[
        str | None, typer.Option(help="Id of the account that paid.  \\[default: yours]")
    ] = None,
    provider: Annotated[str, typer.Option(help="Who received the money.")] = "manual",
    as_json: AsJson = False,
) -> None:
    """Confirm a payment that arrived, as an operator; the same reference adds nothing more."""
    body = {"amount": amount, "reference": reference, "provider": provider}
    with client_of(ctx) as client:
        account_id = account or client.get("/account")["id"]
        show(client.post(f"/accounts/{account_id}/top-ups", body), as_json, tables.fields)


@billing.command()
def ledger(
    ctx: typer.Context,
    job: Annotated[str | None, typer.Option(help="Only this job's postings.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print all of it as CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """Every posting of your account."""
    _one_format(as_csv, as_json)
    with client_of(ctx) as client:
        if as_csv:
            print(client.text("/ledger.csv"), end="")
        else:
            show(client.whole("/ledger", "position", job=job), as_json, tables.ledger)


@billing.command()
def statement(
    ctx: typer.Context,
    by: Annotated[Cut, typer.Option(help="A line for each day, or for each job.")] = Cut.DAYS,
    first: Annotated[str | None, typer.Option(help="First day, such as 2026-11-01.")] = None,
    last: Annotated[str | None, typer.Option(help="Last day; default: today.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print it for a spreadsheet.")] = False,
    as_json: AsJson = False,
) -> None:
    """What came in and what was charged; every cent names its minutes in --json and --csv."""
    _one_format(as_csv, as_json)
    path, days = f"/statements/{by}", {"first": first, "last": last}
    with client_of(ctx) as client:
        if as_csv:
            print(client.text(f"{path}.csv", **days), end="")
        else:
            draw = tables.statement_days if by is Cut.DAYS else tables.statement_jobs
            show(client.get(path, **days), as_json, draw)


def _one_format(as_csv: bool, as_json: bool) -> None:
    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json are two formats; choose one")
