"""The search for events: its form, with a problem for each field, and its pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, TypeVar
from uuid import UUID

from fastapi import Depends, Query

from domain.core.errors import Invalid, NotFound
from gateway.audit.kinds import topics_of_kind
from gateway.http.paging import MOST_POSITION
from gateway.schemas import SHOWN_CHARACTERS, parsed_job_id
from gateway.web.addresses import query_of
from infrastructure.accounts.profiles import account_id_of
from infrastructure.postgres.log_reader import Selection
from infrastructure.postgres.store import Connection

T = TypeVar("T")

LONGEST_FIELD = 200

Text = Annotated[str, Query(max_length=LONGEST_FIELD)]


class Order(StrEnum):
    """The order of the events."""

    NEWEST = "newest"
    OLDEST = "oldest"


@dataclass(frozen=True)
class Asked:
    """The fields of the form, as they are in the URL."""

    account: Text = ""
    job: Text = ""
    kind: Text = ""
    since: Annotated[str, Query(alias="from", max_length=LONGEST_FIELD)] = ""
    until: Text = ""
    order: Text = ""
    beyond: Annotated[int | None, Query(ge=0, le=MOST_POSITION)] = None
    """Position after which the page begins, in its order."""

    @property
    def newest_first(self) -> bool:
        return self.order != Order.OLDEST

    @property
    def is_filtered(self) -> bool:
        """True if the form restricts the events."""
        return any((self.account, self.job, self.kind, self.since, self.until))

    def query(self, **change: object) -> str:
        """Return the query string of the URL with the given parameters changed."""
        fields: dict[str, object] = {
            "account": self.account,
            "job": self.job,
            "kind": self.kind,
            "from": self.since,
            "until": self.until,
            "order": self.order,
            "beyond": self.beyond,
        }
        return query_of(fields | change)


AskedOf = Annotated[Asked, Depends()]


@dataclass
class Search:
    """The events to search for, and the problems of the form by field."""

    selection: Selection = field(default_factory=Selection)
    problems: dict[str, str] = field(default_factory=dict[str, str])


def search_of(asked: Asked, connection: Connection) -> Search:
    """Read the form."""
    found = Search()

    def read(name: str, text: str, parse: Callable[[str], T]) -> T | None:
        try:
            return parse(text.strip()) if text.strip() else None
        except (ValueError, Invalid, NotFound) as error:
            found.problems[name] = str(error)
            return None

    read("order", asked.order, _order)
    found.selection = Selection(
        account_id=read("account", asked.account, lambda text: _account(connection, text)),
        job_id=read("job", asked.job, parsed_job_id),
        since=read("from", asked.since, _moment),
        until=read("until", asked.until, _moment),
        topics=read("kind", asked.kind, _topics),
    )
    since, until = found.selection.since, found.selection.until
    if since is not None and until is not None and since >= until:
        found.problems["until"] = "The period ends before it begins. Enter a later time."
    return found


def _account(connection: Connection, text: str) -> UUID:
    """Return an account's ID. A name is looked up outside of the log."""
    account_id = account_id_of(connection, text)
    if account_id is None:
        raise NotFound(f"Unknown account {_short(text)!r}. Enter its ID or its name.")
    return account_id


def _topics(text: str) -> tuple[str, ...]:
    try:
        return topics_of_kind(text)
    except KeyError:
        raise Invalid(f"Unknown kind {_short(text)!r}. Choose one from the list.") from None


def _order(text: str) -> Order:
    try:
        return Order(text)
    except ValueError:
        raise Invalid(
            f"Unknown order {_short(text)!r}. Choose `newest` or `oldest` first."
        ) from None


def _moment(text: str) -> datetime:
    """Parse a time, which is in UTC unless it has an offset."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid(
            f"{_short(text)!r} is not a time. Enter one such as 2026-11-24T12:00, in UTC."
        ) from None


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
