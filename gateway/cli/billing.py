"""`ecolink billing`: the balance, statements and the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated
from uuid import UUID

import typer
from rich.console import RenderableType

from domain.billing.budget import BudgetPeriod
from domain.core.money import exact_dollars
from gateway.billing.schemas import (
    AccountResponse,
    BudgetKey,
    BudgetResponse,
    Posting,
    StatementDay,
    StatementJob,
)
from gateway.cli.client import Client
from gateway.cli.tables import fields, listing, listing_of, number, selected
from gateway.cli.terminal import CommandGroup, client_of, for_programs, show
from gateway.schemas import Listed, Money

billing = CommandGroup(
    no_args_is_help=True, help="Show the balance, statements and the ledger, and confirm payments."
)


COLUMNS = ("id", "name", "role", "balance", "reserved")


class Cut(StrEnum):
    """Grouping of a statement's rows."""

    DAYS = "days"
    JOBS = "jobs"


@billing.command()
def balance(client: Client) -> None:
    """Show your balance, and the part of it that running jobs have reserved."""
    show(client.read(AccountResponse, "/account"), fields)


@billing.command()
def accounts(client: Client) -> None:
    """List all accounts. Only operators and auditors can do this."""
    found = client.read_all(AccountResponse, "/accounts", "id")
    show(found, lambda all_: listing_of(all_.data, *COLUMNS, empty="There are no accounts."))


@billing.command("top-up")
def top_up(
    client: Client,
    amount: Annotated[
        str, typer.Argument(help="Amount in dollars, such as 25.00.", show_default=False)
    ],
    reference: Annotated[
        str, typer.Option(help="Reference of the payment. EcoLink adds each reference only once.")
    ],
    account: Annotated[
        str | None, typer.Option(help="ID of the account that paid.  \\[default: yours]")
    ] = None,
    provider: Annotated[
        str, typer.Option(help="Payment provider that received the money.")
    ] = "manual",
) -> None:
    """Confirm a received payment. Only operators can do this. EcoLink adds each reference only
    once.
    """
    body = {"amount": amount, "reference": reference, "provider": provider}
    account_id = account or client.read(AccountResponse, "/account").model.id
    show(client.send(AccountResponse, f"/accounts/{account_id}/top-ups", body), fields)


budget = CommandGroup(
    no_args_is_help=True,
    help="Limit the charges of each calendar day or month in UTC, or those of an API key.",
)
billing.add_typer(budget, name="budget")

Period = Annotated[
    BudgetPeriod,
    typer.Argument(help="Period of the budget. Total needs --key.", show_default=False),
]
OfKey = Annotated[
    UUID | None,
    typer.Option(
        "--key",
        metavar="ID",
        help="API key whose jobs the budget limits. See `ecolink keys list`.  "
        "\\[default: all jobs]",
        show_default=False,
    ),
]


@budget.command("set")
def set_budget(
    client: Client,
    period: Period,
    limit: Annotated[
        str, typer.Argument(help="Amount in dollars, such as 250.00.", show_default=False)
    ],
    key: OfKey = None,
) -> None:
    """Set a budget. Before the charges exceed it, running jobs save a checkpoint and pause.

    The budget of an API key limits the jobs that the key approved or last resumed.
    """
    body = {"period": period.value, "limit": limit, "key_id": str(key) if key else None}
    show(client.send(Listed[BudgetResponse], "/account/budgets", body), _budgets)


@budget.command("list")
def list_budgets(client: Client) -> None:
    """List your budgets with the charges of their current periods."""
    show(client.read(Listed[BudgetResponse], "/account/budgets"), _budgets)


@budget.command("remove")
def remove_budget(client: Client, period: Period, key: OfKey = None) -> None:
    """Remove a budget, and list the others."""
    client.delete(f"/account/budgets/{period}" + (f"?key_id={key}" if key else ""))
    show(client.read(Listed[BudgetResponse], "/account/budgets"), _budgets)


def _budgets(answer: Listed[BudgetResponse]) -> RenderableType:
    columns = ("period", "limit", "spent", "left", "used_percent", "renews_on")
    rows = (
        selected(each, *columns) | {"key": _key(each.key) if each.key else "all jobs"}
        for each in answer.data
    )
    return listing(rows, empty="You have no budgets.")


def _key(key: BudgetKey) -> str:
    hint = f"eco_…{key.hint}"
    return f"{key.name} {hint}" if key.name else hint


@billing.command()
def ledger(
    ctx: typer.Context,
    job: Annotated[str | None, typer.Option(help="Show the postings of one job.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the whole ledger as CSV.")] = False,
) -> None:
    """List the postings of your account."""
    _one_format(as_csv)
    with client_of(ctx) as client:
        if as_csv:
            print(client.text("/ledger.csv"), end="")
        else:
            show(client.read_all(Posting, "/ledger", "position", job=job), _ledger)


def _ledger(answer: Listed[Posting]) -> RenderableType:
    rows = (
        selected(each, "posted_at", "amount")
        | {"debit": _kind(each.debit), "credit": _kind(each.credit)}
        | selected(each, "reason", "segment", "minute", "job_id")
        for each in answer.data
    )
    return listing_of_amounts(rows, empty="The ledger is empty.")


def _kind(account: str) -> str:
    """Return the kind of a ledger account, without the ID, which is the user's own."""
    return account.partition(":")[0]


@billing.command()
def statement(
    ctx: typer.Context,
    by: Annotated[Cut, typer.Option(help="Rows of the statement: days or jobs.")] = Cut.DAYS,
    first: Annotated[str | None, typer.Option(help="First day, such as 2026-11-01.")] = None,
    last: Annotated[str | None, typer.Option(help="Last day.  \\[default: today]")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV for a spreadsheet.")] = False,
) -> None:
    """Show top-ups and charges. --json and --csv include the metered minutes of each amount."""
    _one_format(as_csv)
    path, days = f"/statements/{by}", {"first": first, "last": last}
    with client_of(ctx) as client:
        if as_csv:
            print(client.text(f"{path}.csv", **days), end="")
        elif by is Cut.DAYS:
            show(client.read(Listed[StatementDay], path, **days), _days)
        else:
            show(client.read(Listed[StatementJob], path, **days), _jobs)


def _days(answer: Listed[StatementDay]) -> RenderableType:
    moving = ("top_ups", "refunds", "credits", "charges", "reversals")
    rows = (
        selected(day, "day", "opening", *moving, "closing")
        for day in answer.data
        if any(getattr(day, name).micros for name in moving)
    )
    return listing_of_amounts(rows, empty="There are no movements in this period.")


def _jobs(answer: Listed[StatementJob]) -> RenderableType:
    names = ("job_id", "name", "net", "charges", "reversals", "seconds", "segments")
    rows = (selected(job, *names, "dataset", "base_model") for job in answer.data)
    return listing_of_amounts(rows, empty="EcoLink billed no jobs in this period.")


def listing_of_amounts(rows: Iterable[Mapping[str, object]], empty: str) -> RenderableType:
    """Render rows with exact amounts."""

    def exact(value: object) -> object:
        return number(exact_dollars(value.micros)) if isinstance(value, Money) else value

    return listing(({name: exact(each) for name, each in row.items()} for row in rows), empty)


def _one_format(as_csv: bool) -> None:
    if as_csv and for_programs.get():
        raise typer.BadParameter("You cannot combine --csv and --json. Choose one.")
