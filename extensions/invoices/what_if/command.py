"""`ecolink audit what-if`, which replays a period under other prices."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated
from uuid import UUID

import typer
from pydantic import ValidationError
from rich.table import Table

from deploy.local.errors import StackError
from deploy.local.stack import database
from domain.catalog.catalog_entries import read_prices
from domain.core.money import decimals_of, exact_dollars
from extensions.invoices.audited_period import From, Until, period_between
from extensions.invoices.domain.invoice import Period
from extensions.invoices.domain.money_events import Inconsistent
from extensions.invoices.domain.what_if import (
    Comparison,
    Group,
    Rounding,
    by_account,
    by_gpu_type,
    reprice,
)
from extensions.invoices.what_if.charge_rows import charge_rows
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import AsJson, fail, screen
from infrastructure.accounts.profiles import account_names
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings

FIRST = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime(9999, 1, 1, tzinfo=UTC)


def what_if(
    prices: Annotated[
        Path,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Catalog in TOML. Only `micros_per_hour` of its `gpu_types` is read. A GPU type "
            "that is not in it keeps the rate that was charged.",
        ),
    ],
    rounding: Annotated[
        Rounding, typer.Option(help="Unit to which the time of each segment is rounded up.")
    ] = Rounding.SECOND,
    start: From = None,
    end: Until = None,
    as_json: AsJson = False,
) -> None:
    """Replay the charges of a period, or of the whole log, under other prices.

    Prints the difference by account and by GPU type. Assumes the same work: each segment runs as
    long as it did, even if its account could not have paid the other price.
    """
    try:
        other = _prices(prices)
        period = period_between(start or FIRST, end or LAST)
        with database(Settings()) as settings, connect(settings) as store:
            compared = reprice(charge_rows(store, period), other, rounding, period)
            names = account_names(store)
    except (StackError, Inconsistent, ValueError, OSError) as error:
        fail(str(error), ExitCode.FAILED)
    if as_json:
        typer.echo(json.dumps(_document(compared, period, rounding), indent=1))
    else:
        _show(compared, names, other)


def _prices(path: Path) -> dict[str, int]:
    """Return the prices in a file. Raise ValueError if it is malformed."""
    try:
        return read_prices(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        raise ValueError(f"{path}: {field}: {problem['msg']}.") from error
    except (TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error


def _document(
    compared: Mapping[Group, Comparison], period: Period, rounding: Rounding
) -> dict[str, object]:
    return {
        "from": None if period.start == FIRST else period.start.isoformat(),
        "until": None if period.end == LAST else period.end.isoformat(),
        "rounding": rounding,
        "groups": [
            {"account_id": str(group.account_id), "gpu_type": group.gpu_type} | _figures(each)
            for group, each in compared.items()
        ],
        "accounts": [
            {"account_id": str(id)} | _figures(each) for id, each in by_account(compared).items()
        ],
        "gpu_types": [
            {"gpu_type": name} | _figures(each) for name, each in by_gpu_type(compared).items()
        ],
        "total": _figures(sum(compared.values(), Comparison())),
    }


def _figures(each: Comparison) -> dict[str, object]:
    return {
        "seconds": each.seconds,
        "charged_micros": each.charged_micros,
        "repriced_micros": each.repriced_micros,
        "difference_micros": each.difference_micros,
    }


def _show(
    compared: Mapping[Group, Comparison], names: Mapping[UUID, str], prices: Mapping[str, int]
) -> None:
    accounts = {names.get(id, str(id)): each for id, each in by_account(compared).items()}
    kinds = {
        name if name in prices else f"{name} (not in the file)": each
        for name, each in by_gpu_type(compared).items()
    }
    total = sum(compared.values(), Comparison())
    for title, rows in (("account", accounts), ("GPU type", kinds)):
        screen().print(_table(title, rows, total))
        screen().print()


def _table(title: str, rows: Mapping[str, Comparison], total: Comparison) -> Table:
    every = (*rows.values(), total)
    decimals = decimals_of(
        micros for each in every for micros in (each.charged_micros, each.repriced_micros)
    )
    table = Table(title, box=None)
    for column in ("seconds", "charged", "at these prices", "difference"):
        table.add_column(column, justify="right")
    for name, each in {**rows, "total": total}.items():
        table.add_row(
            name,
            f"{each.seconds:,}",
            exact_dollars(each.charged_micros, decimals),
            exact_dollars(each.repriced_micros, decimals),
            exact_dollars(each.difference_micros, decimals),
        )
    return table
