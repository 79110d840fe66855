"""`ecolink audit replay`, `show` and `why`, which read the past from the event log alone."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer
from rich.table import Table

from deploy.local.errors import StackError
from deploy.local.stack import database
from deploy.operator.events import job_id_of
from domain.core.errors import DomainError, NotFound
from domain.core.money import exact_dollars
from domain.replay.causes import Basis, Origin
from domain.replay.past import Moment
from gateway.audit.schemas import (
    CauseOf,
    ChainStep,
    Folded,
    Logged,
    LoggedEvent,
    PastAccount,
    PastJob,
    Place,
    Why,
)
from gateway.audit.service import Auditor
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import AsJson, errors, fail, screen
from gateway.schemas import job_name
from infrastructure.accounts.profiles import account_id_of
from infrastructure.postgres.log_reader import Selection
from infrastructure.postgres.store import Connection, connect
from infrastructure.settings import Settings

show = typer.Typer(
    name="show",
    no_args_is_help=True,
    help="Show a job or an account as of a moment, folded from the event log alone.",
)

DATE = re.compile(r"\d{4}-\d\d-\d\d")

ORIGINS = {
    Origin.COMMAND: "a command of {}",
    Origin.SERVICE: "{} acted on its own, such as at its start or by a timer",
    Origin.UNKNOWN: "no cause: the event names none, and the log has no event that could be one",
}
BASES = {
    Basis.RECORDED: "named by the event",
    Basis.SAVED_TOGETHER: "saved together",
    Basis.RULE: "by EcoLink's rules; the event names no such cause",
}


def moment_of(text: str) -> datetime:
    """Parse a time, or a date, which means its first moment in UTC. Raise BadParameter."""
    example = "such as 2026-11-24T12:00:00Z or 2026-11-24T13:00+01:00"
    try:
        parsed = datetime.fromisoformat(text)
        if parsed.tzinfo is None and DATE.fullmatch(text):
            parsed = parsed.replace(tzinfo=UTC)
        if parsed.tzinfo is not None:
            return parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is not a time. Use ISO 8601, {example}, or a date in UTC."
        ) from None
    raise typer.BadParameter(f"{text!r} has no time zone. Add Z for UTC, or an offset, {example}.")


Time = Annotated[
    datetime | None,
    typer.Option(
        "--at",
        parser=moment_of,
        metavar="TIME",
        help="Time with a time zone, or a UTC date. Inclusive.",
    ),
]
AtEvent = Annotated[
    int | None,
    typer.Option(
        "--at-event", metavar="N", min=1, help="Notification ID of the last event to include."
    ),
]


def replay(
    account: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Only events of the account with this ID or name."),
    ] = None,
    job: Annotated[
        UUID | None,
        typer.Option(parser=job_id_of, metavar="ID", help="Only events about this job."),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--from", parser=moment_of, metavar="TIME", help="Only events at or after this time."
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            parser=moment_of, metavar="TIME", help="Only events before this time, exclusive."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, with all fields.")
    ] = False,
) -> None:
    """Print the events of the log, in log order, as a timeline or as JSON lines.

    The options combine. An account's events include those of its jobs, meters, datasets,
    deployments, keys and payments. A time is ISO 8601 with a time zone, such as
    2026-11-24T12:00:00Z, or a date, which means its first moment in UTC. A damaged event is printed
    with its position, and the exit status is then 1.
    """
    damaged = 0
    with _auditor() as (auditor, store):
        account_id = _account_id(store, account) if account is not None else None
        for event in auditor.replay(Selection(account_id, job, since, until)):
            damaged += not isinstance(event, LoggedEvent)
            typer.echo(event.model_dump_json() if as_json else _line(event))
    if damaged:
        events = "event is" if damaged == 1 else "events are"
        errors.print(f"{damaged} {events} damaged. Run `ecolink audit verify`.", style="red")
        raise typer.Exit(ExitCode.FAILED)


@show.command("job")
def show_job(
    job: Annotated[UUID, typer.Argument(parser=job_id_of, metavar="ID", show_default=False)],
    at: Time = None,
    at_event: AtEvent = None,
    as_json: AsJson = False,
) -> None:
    """Show a job with its launches, checkpoints and cost, as of a moment or now.

    This reads the log alone, without any read model or snapshot.
    """
    moment = _moment(at, at_event)
    with _auditor() as (auditor, _):
        found = auditor.job(job, moment)
    _print(found, [_job(found), _launches(found), _checkpoints(found)], as_json)


@show.command("account")
def show_account(
    account: Annotated[
        str, typer.Argument(metavar="ID", help="Its ID or name.", show_default=False)
    ],
    at: Time = None,
    at_event: AtEvent = None,
    as_json: AsJson = False,
) -> None:
    """Show an account with its balance, budgets, reservations and keys, as of a moment or now.

    This reads the log alone, without any read model or snapshot.
    """
    moment = _moment(at, at_event)
    with _auditor() as (auditor, store):
        found = auditor.account(_account_id(store, account), moment)
    tables = [_account(found), _budgets(found), _reservations(found), _keys(found)]
    _print(found, tables, as_json)


def why(
    event: Annotated[
        str,
        typer.Argument(
            help="Notification ID of an event, or its ID `<originator ID>:<version>`.",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Print the causes of an event, oldest first, and its direct effects.

    The causes lead from a charge back to the command of a person. Each cause is marked: named by
    the event, saved together with it, or required by EcoLink's rules if the event names none.
    """
    with _auditor() as (auditor, _):
        found = auditor.why(event)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        _explain(found)


@contextmanager
def _auditor() -> Generator[tuple[Auditor, Connection]]:
    """Open the event store. Print an error, and exit with its code."""
    try:
        with database(Settings()) as settings, connect(settings) as store:
            yield Auditor(store), store
    except NotFound as error:
        fail(_plain(str(error)), ExitCode.NOT_FOUND)
    except (StackError, DomainError) as error:
        fail(_plain(str(error)), ExitCode.FAILED)


def _account_id(store: Connection, text: str) -> UUID:
    """Return an account's ID. A name is looked up outside of the log. Raise NotFound."""
    account_id = account_id_of(store, text)
    if account_id is None:
        raise NotFound(f"Unknown account {text!r}. See `ecolink accounts list`.")
    return account_id


def _moment(at: datetime | None, event: int | None) -> Moment:
    if at is not None and event is not None:
        raise typer.BadParameter("--at and --at-event exclude each other. Use one of them.")
    return Moment(at, event)


def _print(found: PastJob | PastAccount, tables: Sequence[Table], as_json: bool) -> None:
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        for line in _provenance(found.log):
            typer.echo(line)
        for table in tables:
            if table.row_count:
                typer.echo()
                screen().print(table)
    if found.log.problem is not None:
        text = f"{_plain(found.log.problem)} Run `ecolink audit verify`."
        errors.print(text, style="red", markup=False)
        raise typer.Exit(ExitCode.FAILED)


def _provenance(log: Folded) -> Iterable[str]:
    events = "1 event" if log.events == 1 else f"{log.events:,} events"
    yield f"As of {_place(log.as_of)}, folded from {events} of the log."
    yield "Read from the log alone, without any read model or snapshot."
    if log.next is not None:
        yield f"Not included: {_place(log.next)}, and what follows."


def _job(job: PastJob) -> Table:
    plan = job.plan
    return _facts(
        ("job", job_name(job.job_id)),
        ("account", str(job.account_id)),
        ("status", _plain(job.status) + (", stop requested" if job.stop_requested else "")),
        ("base model", _plain(plan.base_model) if plan else ""),
        ("dataset", f"{plan.dataset_id} (SHA-256 {_plain(plan.dataset_sha256)})" if plan else ""),
        ("GPUs", _plain(f"{job.gpu_count} × {plan.gpu_type} in {plan.region}") if plan else ""),
        ("rate", f"{exact_dollars(job.rate_micros_per_hour)} an hour" if plan else ""),
        (
            "estimate",
            f"{exact_dollars(plan.low_micros)} to {exact_dollars(plan.high_micros)}"
            if plan
            else "",
        ),
        ("step", f"{job.step:,} of {job.total_steps:,}" if job.total_steps else ""),
        ("charged", exact_dollars(job.charged_micros)),
        ("credited", exact_dollars(job.credited_micros) if job.credited_micros else ""),
        ("cost", exact_dollars(job.cost_micros)),
        ("reserved", exact_dollars(job.reserved_micros)),
        ("model", _plain(job.model or "")),
    )


def _launches(job: PastJob) -> Table:
    table = Table(
        "launch", "allocated", "GPUs bound", "ended", "reason", "meter", "billed", "cost",
        title="Launches", title_justify="left", box=None,
    )  # fmt: skip
    for each in job.segments:
        table.add_row(
            str(each.segment),
            *map(_time, (each.allocated_at, each.bound_at, each.ended_at)),
            each.end_reason or "",
            each.meter,
            f"{each.billed_seconds:,} s of {each.paid_seconds:,} s",
            exact_dollars(each.charged_micros - each.credited_micros),
        )
    return table


def _checkpoints(job: PastJob) -> Table:
    table = Table(
        "step", "launch", "train loss", "held-out loss", "manifest",
        title="Checkpoints", title_justify="left", box=None,
    )  # fmt: skip
    for each in job.checkpoints:
        held_out = "" if each.eval_loss is None else f"{each.eval_loss:.4f}"
        table.add_row(
            f"{each.step:,}",
            str(each.segment),
            f"{each.train_loss:.4f}",
            held_out,
            _plain(each.manifest_sha256[:12]),
        )
    return table


def _account(account: PastAccount) -> Table:
    marks = [name for name in ("low", "depleted") if getattr(account, name)]
    balance = exact_dollars(account.balance_micros)
    return _facts(
        ("account", str(account.account_id)),
        ("role", account.role),
        ("opened", _time(account.opened_at)),
        ("suspended", account.suspension or "no"),
        ("balance", f"{balance} ({', '.join(marks)})" if marks else balance),
        ("reserved", exact_dollars(account.reserved_micros)),
        ("available", exact_dollars(account.available_micros)),
        ("granted", exact_dollars(account.granted_micros)),
        ("topped up", exact_dollars(account.topped_up_micros)),
        ("refunded", exact_dollars(account.refunded_micros)),
        ("charged", exact_dollars(account.charged_micros)),
        ("reversed", exact_dollars(account.reversed_micros)),
    )


def _budgets(account: PastAccount) -> Table:
    table = Table(
        "budget", "key", "since", "spent", "limit", "recorded",
        title="Budgets", title_justify="left", box=None,
    )  # fmt: skip
    for each in account.budgets:
        table.add_row(
            each.period,
            str(each.key_id or "all jobs"),
            str(each.starts_on or ""),
            exact_dollars(each.spent_micros),
            exact_dollars(each.limit_micros),
            f"{each.warned_percent}%" if each.warned_percent else "",
        )
    return table


def _reservations(account: PastAccount) -> Table:
    table = Table(
        "job", "launch", "billed", "paid", "reserved",
        title="Reservations", title_justify="left", box=None,
    )  # fmt: skip
    for each in account.reservations:
        table.add_row(
            job_name(each.job_id),
            str(each.segment),
            f"{each.billed_seconds:,} s",
            f"{each.paid_seconds:,} s",
            exact_dollars(each.reserved_micros),
        )
    return table


def _keys(account: PastAccount) -> Table:
    table = Table(
        "key", "ends in", "role", "scopes", "issued", "expires", "revoked",
        title="Keys", title_justify="left", box=None,
    )  # fmt: skip
    for each in account.keys:
        table.add_row(
            str(each.key_id),
            _plain(each.hint),
            each.role,
            ", ".join(each.scopes),
            *map(_time, (each.issued_at, each.expires_at, each.revoked_at)),
        )
    return table


def _facts(*facts: tuple[str, str]) -> Table:
    table = Table(box=None, show_header=False)
    for name, value in facts:
        if value:
            table.add_row(name, value)
    return table


def _explain(found: Why) -> None:
    typer.echo("Causes, oldest first")
    for step in found.chain:
        typer.echo(_line(step.event))
        for line in _reasons(step):
            typer.echo(f"{'':>12}{line}")
    for title, events, none in (
        ("Saved together with it", found.saved_together, "No other event was saved with it."),
        ("Direct effects", found.effects, "No event names it as its cause."),
    ):
        typer.echo(f"\n{title}")
        for event in events:
            typer.echo(_line(event))
        if not events:
            typer.echo(f"{'':>12}{none}")


def _reasons(step: ChainStep) -> Iterable[str]:
    if not step.followed:
        yield f"is about another job. For its causes, run `ecolink audit why {step.event.position}`"
    if step.origin is not None:
        yield ORIGINS[step.origin].format(_plain(step.event.actor_text))
    for cause in step.causes:
        yield _cause(cause)


def _cause(cause: CauseOf) -> str:
    if cause.problem is not None:
        return f"cause missing: {_plain(cause.problem)}"
    return f"because of {cause.position} ({BASES[cause.basis]})"


def _line(event: Logged) -> str:
    """Return an event as a line of a timeline."""
    if isinstance(event, LoggedEvent):
        parts = (event.topic, event.actor_text, event.text)
        return f"{event.position:>10}  {_time(event.time)}  " + _plain("  ".join(parts))
    parts = (event.topic, f"DAMAGED event {event.id}: {event.problem}")
    return f"{event.position:>10}  {'time unknown':<27}  " + _plain("  ".join(parts))


def _place(place: Place) -> str:
    return f"event {place.position} at {_time(place.time) or 'an unknown time'}"


def _time(time: datetime | None) -> str:
    if time is None:
        return ""
    return f"{time.astimezone(UTC).isoformat(sep=' ', timespec='milliseconds')[:-6]} UTC"


def _plain(text: str) -> str:
    """Replace control characters, so that a tampered event cannot control the terminal."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
