"""Templates of the pages, and filters that format values."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import UUID

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from domain.access.rights import Rights
from domain.access.role import Role
from domain.access.scope import Scope
from domain.core.durations import rough, spoken
from domain.core.money import dollars, exact_dollars
from domain.core.quantities import counted, gib, written_speed
from gateway.backend import Backend
from gateway.billing.schemas import AccountResponse
from gateway.billing.service import account_of
from gateway.http.access import Caller, delete_stale_account
from gateway.http.permissions import DOWNLOAD, OPERATOR_READ
from gateway.http.sessions import renew_session
from gateway.schemas import job_name
from gateway.web.amounts import exact_amount, written_amount, written_range
from gateway.web.assets import url_of
from infrastructure.extensions import selected

SECURITY = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
}
"""Headers of every page and fragment. Pico's icons are `data:` images."""

SHARED = Path(__file__).parent / "templates"

NO_BREAK = "\N{NO-BREAK SPACE}"

PRIVATE = {"cache-control": "private, no-store"}

UNITS = ("B", "kB", "MB", "GB", "TB")


@cache
def templates() -> Environment:
    """Return the template environment with its filters."""
    environment = Environment(
        loader=ChoiceLoader([FileSystemLoader(SHARED), PrefixLoader(_features())]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": written_bytes,
        "counted": counted,
        "fixed": "{:z,.4f}".format,
        "speed": written_speed,
        "gib": lambda size: f"{gib(size):g} GiB",  # rounded up like the memory fit
        "cents": dollars,
        "clock": partial(written_time, attribute=Markup(" data-clock")),
        "count": "{:,}".format,
        "day": written_day,
        "dollars": written_amount,
        "exact": exact_amount,
        "job_name": job_name,
        "limit": written_limit,
        "micro_dollars": exact_dollars,
        "moment": partial(
            written_time, attribute=Markup(' data-clock="seconds"'), written="%Y-%m-%d %H:%M:%S"
        ),
        "rough": unbroken(rough),
        "sentence": sentence,
        "spoken": unbroken(spoken),
        "time": written_time,
    }
    environment.globals |= {
        "account_links": account_links,
        "asset": url_of,
        "dataset_link": dataset_link,
        "dollars_range": written_range,
        "operator_tabs": operator_tabs,
        "panels": panels,
    }
    return environment


def _features() -> dict[str, FileSystemLoader]:
    """Return template loaders by feature: `jobs/list.html` is gateway/jobs/templates/list.html."""
    folders = SHARED.parents[1].glob("*/templates")
    core = {folder.parent.name: FileSystemLoader(folder) for folder in folders}
    return core | {each.name: FileSystemLoader(each.templates) for each in selected()}


def panels(place: str) -> list[str]:
    """Return the templates that extensions add to a place of a page."""
    return [each.panels[place].template for each in selected() if place in each.panels]


def panel_data(place: str, *of_page: Any) -> dict[str, Any]:
    """Return the variables of the templates that extensions add to a place of a page.

    `of_page` has the arguments of the functions that return them.
    """
    return {
        each.name: each.load(panel.data)(*of_page)
        for each in selected()
        if (panel := each.panels.get(place)) and panel.data
    }


def account_links() -> list[tuple[str, str]]:
    """Return the paths and titles of the pages in the account menu that extensions add."""
    return [link for each in selected() for link in each.account_links.items()]


def operator_tabs() -> list[tuple[str, str]]:
    """Return the paths and titles of the pages below /ops that extensions add."""
    return [tab for each in selected() for tab in each.operator_tabs.items()]


def unbroken(written: Callable[[float], str]) -> Callable[[float], str]:
    """Return a duration formatter that keeps numbers and units on one line."""
    return lambda seconds: written(seconds).replace(" ", NO_BREAK)


def is_htmx(request: Request) -> bool:
    """Return True if htmx requests a part of the current page."""
    return request.headers.get("hx-request") == "true"


def page(
    request: Request,
    backend: Backend,
    caller: Caller,
    template: str,
    *,
    headers: dict[str, str] | None = None,
    **context: Any,
) -> HTMLResponse:
    """Return a page in the layout of the signed-in user."""
    session, account = getattr(request.state, "session", None), account_of(backend, caller)
    response = fragment(
        template,
        headers=headers,
        account=account,
        auditing=caller.role is Role.AUDITOR,
        may=_allowed(caller.rights, account),
        csrf_token=session.csrf_token if session else "",
        path=request.url.path,
        **panel_data("page.banners", backend, caller) | context,
    )
    renew_session(request, response, backend)
    delete_stale_account(request, response)
    return response


def _allowed(rights: Rights, account: AccountResponse) -> list[str]:
    """Return the scopes of a key, and `download` if it may read the content of datasets and models.

    A key that may read the pages for operators alone also has `operator`.
    The key of a suspended account can only read and download.
    Pages hide each control whose `data-needs` names another right. Parts of a page need no rights,
    so that all who watch a job share them.
    """
    usable = [each for each in rights.scopes if not account.suspension or each is Scope.READ]
    reads = {"download": DOWNLOAD, "operator": OPERATOR_READ}
    return [*usable, *(name for name, permission in reads.items() if permission.allows(rights))]


def fragment(
    template: str,
    status: int = HTTPStatus.OK,
    *,
    headers: dict[str, str] | None = None,
    **context: Any,
) -> HTMLResponse:
    """Return a part of a page for htmx, or a page without an account."""
    text = templates().get_template(template).render(**context)
    return HTMLResponse(text, status, SECURITY | PRIVATE | (headers or {}))


def sentence(message: str) -> str:
    """Return an API message as a sentence, with a capital letter and a period."""
    first, _, _ = message.partition(" ")
    begun = message[:1].upper() + message[1:] if first.rstrip(",;:").isalpha() else message
    return begun if begun.endswith((".", "!", "?")) else f"{begun}."


def dataset_link(dataset_id: UUID, name: str | None) -> Markup:
    """Return a link to a dataset. If `name` is None, return a text: the dataset was deleted."""
    if name is None:
        return Markup("a deleted dataset")
    return Markup('<a href="/datasets/{}">{}</a>').format(dataset_id, name)


def written_day(day: date) -> str:
    """Return a day, such as `Nov 5, 2026`."""
    return f"{day:%b} {day.day}, {day.year}"


def written_bytes(size: float) -> str:
    """Return a size in decimal units, such as `1.2 MB`."""
    exponent = 0
    while size >= 999.5 and exponent < len(UNITS) - 1:
        size, exponent = size / 1000, exponent + 1
    digits = 0 if exponent == 0 or size >= 99.5 else 1
    return f"{size:.{digits}f} {UNITS[exponent]}"


def written_limit(size: int) -> str:
    """Return a limit in a binary unit, such as `40 MiB`, otherwise as a size."""
    for unit, bits in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size and size % (1 << bits) == 0:
            return f"{size >> bits:,} {unit}"
    return written_bytes(size)


def written_time(
    moment: datetime, attribute: Markup = Markup(""), written: str = "%Y-%m-%d %H:%M"
) -> Markup:
    """Return a time in UTC. The script of the page replaces it with a relative or local time."""
    moment = moment.astimezone(UTC)
    return Markup('<time datetime="{}"{}>{} UTC</time>').format(
        moment.isoformat(timespec="seconds").replace("+00:00", "Z"),
        attribute,
        moment.strftime(written),
    )
