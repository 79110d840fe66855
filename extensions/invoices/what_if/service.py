"""The charges of a period under other prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from fastapi import Request
from pydantic import BaseModel, ValidationError

from domain.core.errors import DomainError, Invalid, WrongState
from domain.core.money import exact_dollars, micros_of
from domain.use_cases.catalog import Cataloging
from extensions.invoices.domain.invoice import Period
from extensions.invoices.domain.money_events import Inconsistent
from extensions.invoices.domain.what_if import (
    Comparison,
    Rounding,
    by_account,
    by_gpu_type,
    reprice,
)
from extensions.invoices.what_if.charge_rows import charge_rows
from gateway.audit.access import reading
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.schemas import Money
from gateway.web.addresses import Given
from infrastructure.accounts.profiles import account_names

PRICE = "price."
"""Beginning of the names of the query parameters with prices. The name of the GPU type follows."""

FIRST = datetime(1970, 1, 1, tzinfo=UTC)


TOO_LONG = "Choose a shorter period, or use `ecolink audit what-if`, which has no limit."


class WhatIfQuery(BaseModel):
    """The period, whose days are in UTC and included, and how time is rounded."""

    first: Annotated[date | None, Given] = None
    last: Annotated[date | None, Given] = None
    rounding: Rounding = Rounding.SECOND

    def period(self, today: date) -> Period:
        """Return the period. Raise Invalid if it ends before its start."""
        last = self.last or today
        start = datetime.combine(self.first, datetime.min.time(), UTC) if self.first else FIRST
        try:
            end = datetime.combine(last, datetime.min.time(), UTC) + timedelta(days=1)
            return Period(start=start, end=end)
        except OverflowError:
            raise Invalid(
                f"The last day {last} is too late. Enter an earlier one.", field="last"
            ) from None
        except ValidationError:
            raise Invalid(
                f"The last day {last} is before the first day {self.first}. Enter a later one.",
                field="last",
            ) from None


@dataclass(frozen=True)
class Line:
    """The charges of an account or GPU type, or of all, after credits for lost work."""

    name: str
    seconds: int
    charged: Money
    repriced: Money
    difference: Money

    @classmethod
    def of(cls, name: str, compared: Comparison) -> Line:
        return cls(
            name,
            compared.seconds,
            Money.of(compared.charged_micros),
            Money.of(compared.repriced_micros),
            Money.of(compared.difference_micros),
        )


@dataclass(frozen=True)
class Repriced:
    """The charges at other prices."""

    gpu_types: list[Line]
    accounts: list[Line]
    total: Line


@dataclass(frozen=True)
class WhatIf:
    """The form, with the price of each GPU type in dollars, and its result or problem."""

    query: WhatIfQuery
    prices: dict[str, str] = field(default_factory=dict)
    result: Repriced | None = None
    problem: str | None = None


def what_if(request: Request, backend: Backend, caller: Caller, query: WhatIfQuery) -> WhatIf:
    """Return the form, and the result if the request has prices.

    Raise TookTooLong if the log is too long for a page, and RateLimited if too many audits run.
    """
    given = {
        name.removeprefix(PRICE): value.strip()
        for name, value in request.query_params.items()
        if name.startswith(PRICE)
    }
    catalog = Cataloging(backend.log).catalog
    prices = {
        each.name: given.get(each.name, exact_dollars(each.micros_per_hour).lstrip("$"))
        for each in catalog.gpu_types.values()
    }
    if not given:
        return WhatIf(query, prices)
    try:
        micros = {name: micros_of(text, field=name) for name, text in prices.items() if text}
        return WhatIf(query, prices, _repriced(backend, caller, query, micros))
    except (Invalid, WrongState) as error:
        return WhatIf(query, prices, problem=_sentence(error))


def _sentence(error: DomainError) -> str:
    return f"{error.field}: {error.message}" if error.field else error.message


def _repriced(
    backend: Backend, caller: Caller, query: WhatIfQuery, prices: Mapping[str, int]
) -> Repriced:
    period = query.period(backend.clock.now().astimezone(UTC).date())
    with reading(backend, caller, TOO_LONG) as connection:
        names = account_names(connection)
        try:
            compared = reprice(charge_rows(connection, period), prices, query.rounding, period)
        except Inconsistent as error:
            raise WrongState(f"{error} Verify the log.") from error
    return Repriced(
        [Line.of(name, each) for name, each in by_gpu_type(compared).items()],
        [Line.of(names.get(id, str(id)), each) for id, each in by_account(compared).items()],
        Line.of("Total", sum(compared.values(), Comparison())),
    )
