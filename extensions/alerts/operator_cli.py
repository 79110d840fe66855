"""`ecolink alerts`, which shows and silences alerts, and tests receivers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.local.stack import recorded_variables
from deploy.operator.store import Store, open_store
from domain.core.durations import spoken
from extensions.alerts import tables
from extensions.alerts.domain.durations import parse_duration
from extensions.alerts.domain.evaluation import NoticeKind, Silence
from extensions.alerts.domain.rule import Rule, Severity
from extensions.alerts.receivers import DeliveryFailed, Message, check, send
from extensions.alerts.rules_file import Rules, RulesInvalid, load_rules
from extensions.alerts.settings import AlertSettings
from extensions.alerts.tables import ListedAlert
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import fail
from infrastructure.process.clock import clock_of
from infrastructure.settings import Settings

commands = typer.Typer(
    name="alerts", no_args_is_help=True, help="Show and silence alerts, and test receivers."
)
console = Console(highlight=False, markup=False)

NO_RECEIVERS = "There are no receivers. Add them to the file in ECOLINK_ALERTS_FILE."

COLORS = {Severity.INFO: "blue", Severity.WARNING: "yellow", Severity.CRITICAL: "red"}

RuleName = Annotated[
    str | None, typer.Option("--rule", help="Name of a rule. See `ecolink alerts rules`.")
]
GroupKey = Annotated[
    str | None,
    typer.Option("--group", help="Group of an alert. See `ecolink alerts list`."),
]


@commands.command("list")
def list_alerts() -> None:
    """Show the alerts that fire and the silences. The exit status is 1 if an alert fires."""
    with open_store() as store:
        now = _now(store)
        found = tables.open_alerts(store.connection, now)
        silences = [each for each in tables.silences(store.connection) if each.until > now]
    for alert in found:
        _print(alert)
    if not found:
        console.print("No alert fires.")
    for each in silences:
        console.print(f"Silenced until {_time(each.until)}: {_scope(each.rule, each.group)}")
    if found:
        raise typer.Exit(ExitCode.FAILED)


@commands.command()
def history(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of alerts.")] = 50,
) -> None:
    """Show resolved alerts, the most recent first. EcoLink keeps them for 90 days."""
    with open_store() as store:
        found = tables.resolved_alerts(store.connection, _now(store), limit)
    for alert in found:
        _print(alert)
    if not found:
        console.print("No alert was resolved.")


@commands.command()
def silence(
    rule: RuleName = None,
    group: GroupKey = None,
    duration: Annotated[
        str, typer.Option("--for", help="Time from now, such as 30min, 4h or 2d.")
    ] = "4h",
) -> None:
    """Withhold notices of a rule, of a group or of both until a time.

    EcoLink continues to store the alerts. If an alert still fires when the silence ends, EcoLink
    sends its notice then.
    """
    if rule is None and group is None:
        fail("Name what to silence with --rule, --group or both.", ExitCode.USAGE)
    try:
        length = parse_duration(duration)
    except ValueError as error:
        fail(f"--for {duration!r}: {error}", ExitCode.USAGE)
    with open_store() as store:
        _require_known(rule)
        silenced = Silence(rule, group, _now(store) + length)
        tables.silence(store.connection, silenced)
    console.print(f"Silenced until {_time(silenced.until)}: {_scope(rule, group)}")


@commands.command()
def unsilence(rule: RuleName = None, group: GroupKey = None) -> None:
    """End a silence. Name the same rule and group as in `ecolink alerts silence`."""
    with open_store() as store:
        found = tables.unsilence(store.connection, rule, group)
    if not found:
        fail(f"{_scope(rule, group)} is not silenced. See `ecolink alerts list`.", ExitCode.FAILED)
    console.print(f"No longer silenced: {_scope(rule, group)}")


@commands.command("test")
def send_test(
    receiver: Annotated[
        str | None,
        typer.Argument(help="Name of a receiver. The default is all.", show_default=False),
    ] = None,
) -> None:
    """Send a test message to every receiver or to one, and show each result.

    The exit status is 1 if a receiver does not accept the message.
    """
    rules = _rules()
    names = list(rules.receivers) if receiver is None else [receiver]
    if not names:
        fail(NO_RECEIVERS, ExitCode.FAILED)
    failed = False
    for name in names:
        if name not in rules.receivers:
            known = ", ".join(rules.receivers) or "none"
            fail(f"Unknown receiver {name!r}. The receivers are: {known}.", ExitCode.FAILED)
        now = datetime.now(UTC)
        message = Message(
            "[test] EcoLink alerts",
            "This is a test message from `ecolink alerts test`. You can ignore it.",
            NoticeKind.FIRED,
            Severity.INFO,
            f"ecolink-test-{now:%Y%m%d%H%M%S}",
        )
        try:
            send(rules.receivers[name], message)
        except DeliveryFailed as failure:
            failed = True
            console.print(f"{rules.receivers[name]}: failed. {failure}", style="red")
        else:
            console.print(f"{rules.receivers[name]}: sent", style="green")
    if failed:
        raise typer.Exit(ExitCode.FAILED)


@commands.command("rules")
def show_rules() -> None:
    """Show the rules in force and the receivers, or what is wrong in the file.

    The exit status is 1 if the file of ECOLINK_ALERTS_FILE is invalid, or if Apprise does not
    accept the URL of a receiver.
    """
    rules = _rules()
    for rule in rules.rules.values():
        _print_rule(rule)
    failed = False
    for receiver in rules.receivers.values():
        problem = check(receiver)
        failed = failed or problem is not None
        console.print(f"Receiver {receiver}: {problem or 'ready'}")
    if not rules.receivers:
        console.print(f"{NO_RECEIVERS} Until then, EcoLink stores alerts and notifies no one.")
    if failed:
        raise typer.Exit(ExitCode.FAILED)


def _print_rule(rule: Rule) -> None:
    parameters = "".join(
        f" {name}={_shown(value)}"
        for name, value in rule.parameters
        if name in rule.parameters.model_fields_set
    )
    repeat = "never" if rule.repeat is None else spoken(rule.repeat.total_seconds())
    console.print(f"{rule.name}  ({rule.severity})", style=COLORS[rule.severity])
    console.print(f"  Condition: {rule.condition}{parameters}")
    console.print(
        f"  Group by: {', '.join(rule.group_by) or 'nothing'}; "
        f"for: {spoken(rule.hold.total_seconds())}; repeat: {repeat}; "
        f"receivers: {', '.join(rule.receivers) or 'none'}"
    )


def _shown(value: object) -> str:
    match value:
        case timedelta():
            return spoken(value.total_seconds())
        case tuple():
            return "|".join(map(str, value))
        case _:
            return str(value)


def _file() -> Path | None:
    """Return the file of rules of the environment, or of the stack that runs here."""
    configured = AlertSettings().alerts_file
    recorded = recorded_variables(Settings().home).get("ECOLINK_ALERTS_FILE")
    return configured or (Path(recorded) if recorded else None)


def _rules() -> Rules:
    try:
        return load_rules(_file())
    except RulesInvalid as error:
        fail(str(error), ExitCode.FAILED)


def _require_known(rule: str | None) -> None:
    """Fail if no rule has this name. With an invalid file, accept any name."""
    try:
        known = load_rules(_file()).rules
    except RulesInvalid:
        return
    if rule is not None and rule not in known:
        fail(f"Unknown rule {rule!r}. See `ecolink alerts rules`.", ExitCode.FAILED)


def _print(listed: ListedAlert) -> None:
    alert = listed.alert
    end = f"resolved {_time(alert.resolved_at)}" if alert.resolved_at else "fires"
    fired = f"since {_time(alert.fired_at)}" if alert.fired_at else ""
    console.print(
        f"{alert.severity:<8}  {alert.rule}  {alert.group}  {end}  {fired}".rstrip(),
        style=COLORS[alert.severity],
    )
    for line in alert.text.splitlines():
        console.print(f"  {line}")
    if listed.silenced_until:
        console.print(f"  Silenced until {_time(listed.silenced_until)}")
    if listed.notified:
        console.print(f"  Notified: {', '.join(listed.notified)}")
    for problem in listed.problems:
        console.print(f"  Not notified: {problem}", style="red")


def _scope(rule: str | None, group: str | None) -> str:
    parts = [f"rule {rule}" if rule else "", f"group {group}" if group else ""]
    return ", ".join(filter(None, parts)) or "all alerts"


def _now(store: Store) -> datetime:
    return clock_of(store.settings).now()


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
