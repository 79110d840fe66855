"""The audit, which replays the whole log and compares projections and balances with the result."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, islice
from operator import itemgetter
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.billing.payment import Payment
from domain.billing.token_meter import TokenMeter
from domain.core.aggregate import Event
from domain.core.event_log import EventLog
from domain.core.money import charge_micros, charge_within
from domain.core.recorded import Recorded
from domain.jobs.events import JobApproved, JobResumed
from domain.jobs.guarantee import Guarantee
from infrastructure.postgres.event_batches import event_batches
from infrastructure.postgres.store import Connection, connect, database_time, open_log
from infrastructure.process.clock import clock_of
from infrastructure.settings import Settings
from projections import BILLING_LEDGER, PROJECTIONS
from projections.billing_ledger import posted_balances
from projections.projection import Projection
from projections.rebuilding import few_collections, fold, in_background
from services.projector.key_charges import KeyChargeCheck
from services.projector.key_check import KeyCheck
from services.projector.measurement_check import MeasurementCheck
from services.projector.store_checks import (
    Difference,
    DifferenceKind,
    EvidenceCheck,
    PositionCheck,
    SnapshotCheck,
)

ReturnEvent = (
    Payment.RefundRequested
    | Payment.RefundFailed
    | Payment.PaymentReturned
    | Payment.ReturnReversed
    | Payment.ReturnClosed
    | Account.TopUpWithheld
    | Account.TopUpRestored
)
"""Events of refunds and disputes that change a balance, if their amount is not 0."""


MOST_ROWS = 5
"""Differing rows of a table, and differing values of a row, that a difference names."""


@dataclass(frozen=True)
class Table:
    """The number of rows of a table, and the hash of its rows."""

    rows: int
    sha256: str


@dataclass(frozen=True)
class Comparison:
    """A stored table of a projection, and the same table replayed to the same position."""

    projection: str
    table: str
    position: int
    lag: int
    """Number of events that the projector had not applied yet."""

    live: Table
    refolded: Table

    @property
    def equal(self) -> bool:
        """True if both tables have the same rows."""
        return self.live == self.refolded


@dataclass
class Findings:
    """The result of an audit. The audit passes if `differences` is empty."""

    events: int = 0
    head: int = 0
    accounts: int = 0
    meters: int = 0
    minutes: int = 0
    snapshots: int = 0
    outdated_snapshots: int = 0
    """Number of the snapshots that an earlier version of EcoLink created, which no load uses."""
    trial_balance_micros: int = 0
    lags: Counter[str] = field(default_factory=Counter)
    tables: list[Comparison] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)

    def report(self, kind: DifferenceKind, text: str) -> None:
        """Add a difference."""
        self.differences.append(Difference(kind, text))


def audit(settings: Settings, on_progress: Callable[[int], object] = id) -> Findings:
    """Replay the log of a database and compare the result with the stored rows. Read-only.

    The audit compares snapshots with the replayed state, but does not replay from them. It compares
    each projection at its own position, so it can run while the services run. `on_progress`
    receives the notification ID of the last event that was read.
    """
    findings = Findings()
    log = open_log(settings)
    try:
        with few_collections():
            _replay(settings, log, findings, on_progress)
    except psycopg.OperationalError:
        raise
    except Exception as error:  # noqa: BLE001 - a forged event may raise anything
        findings.report(
            DifferenceKind.NOT_REPLAYED,
            f"the replay failed after event {findings.head}, and compared nothing: "
            f"{type(error).__name__}: {error}",
        )
    finally:
        log.close()
    return findings


def _replay(
    settings: Settings, log: EventLog, findings: Findings, on_progress: Callable[[int], object]
) -> None:
    with connect(settings) as reading, connect(settings) as live, connect(settings) as scratch:
        live.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        _keep_tables(live)
        positions = _positions(live)
        now = clock_of(settings).at(database_time(live))
        checks = (
            SnapshotCheck(live, log),
            PositionCheck(live),
            EvidenceCheck(live, now),
            MeasurementCheck(live),
            KeyCheck(),
            KeyChargeCheck(),
        )
        folded = _Folded(positions[BILLING_LEDGER.name])
        with _refolding(scratch, positions, findings) as refold:
            for batch in event_batches(reading):
                for check in checks:
                    check.take(batch)
                folded.take(batch)
                refold(batch)
                on_progress(batch[-1].id)
        _compare_tables(live, scratch, positions, findings)
        _compare_balances(posted_balances(live), folded, findings)
        _check_minutes(folded, findings)
        for pair in folded.unpaired:
            findings.report(DifferenceKind.UNPAIRED, f"one of the two events is missing for {pair}")
        findings.snapshots, findings.outdated_snapshots = checks[0].checked, checks[0].outdated
        for check in checks:
            findings.differences.extend(check.differences())


class _Folded:
    """Accounts and meters, replayed from the log up to the position of the ledger."""

    def __init__(self, position: int) -> None:
        self._position = position
        self.accounts: dict[UUID, Account] = {}
        self.meters: dict[UUID, Meter] = {}
        self.minutes = 0
        self.reached: dict[UUID, int] = {}  # seconds, by meter
        self.charged: dict[UUID, int] = {}  # micro-dollars, by meter
        self.covered: dict[UUID, int] = {}  # micro-dollars, by meter
        self.guarantees: dict[UUID, Guarantee | None] = {}  # by job
        self.gaps: list[str] = []  # IDs of minutes that follow a gap
        self._unmetered: Counter[UUID] = Counter()
        self._unpaired: dict[Hashable, str] = {}
        self._last_command_id = ""
        self._cut_command_id = ""

    def take(self, batch: Sequence[Recorded]) -> None:
        for item in batch:
            event = item.event
            if item.id > self._position:
                self._cut_command_id = self._cut_command_id or event.command_id
                return
            self._last_command_id = event.command_id
            self._pair(event)
            if isinstance(event, Account.Event):
                self._mutate(self.accounts, event)
                if isinstance(event, Account.UsageSettled):
                    self._unmetered[event.account_id] += event.captured_micros
            elif isinstance(event, JobApproved | JobResumed):
                self.guarantees[event.originator_id] = event.guarantee
            elif isinstance(event, TokenMeter.TokensMetered):
                self._unmetered[event.account_id] -= event.amount_micros
            elif isinstance(event, Meter.Event):
                self._mutate(self.meters, event)
                if isinstance(event, Meter.MinuteMetered):
                    self._add_minute(event)
                    self._unmetered[event.account_id] -= event.amount_micros

    def _add_minute(self, minute: Meter.MinuteMetered) -> None:
        """Keep two integers per meter, because a log has millions of minutes."""
        meter_id = minute.originator_id
        self.minutes += 1
        if minute.from_seconds != self.reached.get(meter_id, 0):
            self.gaps.append(minute.event_id)
        self.reached[meter_id] = minute.to_seconds
        self.charged[meter_id] = self.charged.get(meter_id, 0) + minute.amount_micros
        self.covered[meter_id] = self.covered.get(meter_id, 0) + (minute.covered_micros or 0)

    def unposted_micros(self, account_id: UUID) -> int:
        """Return the micro-dollars captured from the account minus those of its posted minutes.

        The result is not zero only if the ledger's position is in the middle of one save.
        """
        return self._unmetered[account_id] if self._amid_a_save else 0

    @property
    def unpaired(self) -> list[str]:
        """Pairs of events of which the log contains only one."""
        cut = self._cut_command_id if self._amid_a_save else None
        return [str(pair) for pair, command_id in self._unpaired.items() if command_id != cut]

    @property
    def _amid_a_save(self) -> bool:
        return self._last_command_id == self._cut_command_id

    def _pair(self, event: Event) -> None:
        """Pair a reversal with its credit, and a change of a balance with that of its payment."""
        match event:
            case Meter.LostWorkCredited() | Account.ChargeReversed():
                work = f"{event.from_seconds}-{event.to_seconds} s of {event.job_id}"
                pair = ("lost work", event.account_id, work, event.segment, event.amount_micros)
            case Payment.PaymentReceived() | Account.ToppedUp():
                payment = f"{event.provider} {event.reference}"
                pair = ("payment", event.account_id, payment, event.amount_micros)
            case Payment.PaymentReturned() | Payment.ReturnClosed():
                pair = self._withheld(event, event.withheld_micros)
            case Payment.RefundRequested() | Account.TopUpWithheld():
                pair = self._withheld(event, event.amount_micros)
            case Payment.ReturnReversed():
                pair = self._restored(event, event.restored_micros)
            case Payment.RefundFailed() | Account.TopUpRestored():
                pair = self._restored(event, event.amount_micros)
            case _:
                return
        if pair[-1] == 0:
            return  # the balance did not change
        if self._unpaired.pop(pair, None) is None:
            self._unpaired[pair] = event.command_id

    @staticmethod
    def _withheld(event: ReturnEvent, micros: int) -> tuple[object, ...]:
        return ("withheld", event.account_id, event.return_id, micros)

    @staticmethod
    def _restored(event: ReturnEvent, micros: int) -> tuple[object, ...]:
        return ("restored", event.account_id, event.return_id, micros)

    @staticmethod
    def _mutate(aggregates: dict[UUID, Account] | dict[UUID, Meter], event: Event) -> None:
        aggregate = event.mutate(aggregates.get(event.originator_id))
        assert aggregate is not None
        aggregates[event.originator_id] = aggregate  # type: ignore[assignment]


@contextmanager
def _refolding(
    scratch: Connection, positions: dict[str, int], findings: Findings
) -> Generator[Callable[[Sequence[Recorded]], None]]:
    """Yield a function that applies a batch to temporary tables of all projections, in a thread.

    PostgreSQL executes the statements of a batch while the audit reads and checks the next one.
    """

    def apply(batch: Sequence[Recorded]) -> None:
        due = [(each, _up_to(positions[each.name], batch)) for each in PROJECTIONS]
        fold(scratch, due)
        for projection, events in due:
            findings.lags[projection.name] += len(batch) - len(events)
        findings.events += len(batch)
        findings.head = batch[-1].id

    _create_tables(scratch)
    with in_background(apply) as begin:
        yield begin


def _up_to(position: int, batch: Sequence[Recorded]) -> Sequence[Recorded]:
    if batch[-1].id <= position:
        return batch
    return [item for item in batch if item.id <= position]


def _positions(live: Connection) -> dict[str, int]:
    rows = live.execute("SELECT name, position FROM projection_positions").fetchall()
    known = {row["name"]: row["position"] for row in rows}
    return {projection.name: known.get(projection.name, 0) for projection in PROJECTIONS}


def _keep_tables(live: Connection) -> None:
    """Lock the tables against a rebuild, because this transaction would not see the new rows."""
    tables = sql.SQL(", ").join(sql.Identifier(table) for _, table in _tables())
    live.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(tables))


def _create_tables(scratch: Connection) -> None:
    """Create the projections' tables as temporary tables, which shadow the real tables."""
    scratch.execute("SET search_path TO pg_temp")
    for projection in PROJECTIONS:
        scratch.execute(projection.ddl.encode())


def _compare_tables(
    live: Connection, scratch: Connection, positions: dict[str, int], findings: Findings
) -> None:
    with ThreadPoolExecutor(1) as thread:
        for projection, table in _tables():
            refolded = thread.submit(_content, scratch, "pg_temp", table)
            comparison = Comparison(
                projection=projection.name,
                table=table,
                position=positions[projection.name],
                lag=findings.lags[projection.name],
                live=_content(live, "public", table),
                refolded=refolded.result(),
            )
            findings.tables.append(comparison)
            if not comparison.equal:
                rows = "; ".join(_differing_rows(live, scratch, table))
                findings.report(
                    DifferenceKind.TABLE,
                    f"the table {table} differs from a replay of the event log: {rows}",
                )


def _tables() -> Iterator[tuple[Projection, str]]:
    for projection in PROJECTIONS:
        for table in projection.tables:
            yield projection, table


def _content(connection: psycopg.Connection[dict[str, object]], schema: str, table: str) -> Table:
    """Hash a table row by row, because a PostgreSQL value is limited to 1 GB."""
    query = sql.SQL(
        "COPY (SELECT line FROM (SELECT t::text AS line FROM {} AS t) AS lines "
        'ORDER BY line COLLATE "C") TO STDOUT'
    ).format(sql.Identifier(schema, table))
    rows, digest = 0, hashlib.sha256()
    with connection.cursor() as cursor, cursor.copy(query) as lines:
        for block in lines:
            rows += bytes(block).count(b"\n")  # COPY escapes newlines within a row
            digest.update(block)
    return Table(rows=rows, sha256=digest.hexdigest())


def _differing_rows(live: Connection, scratch: Connection, table: str) -> Iterator[str]:
    """Yield the key and the differing values of the first differing rows of a table."""
    keys = live.execute(
        "SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid "
        "AND attnum = ANY (indkey) WHERE indisprimary AND indrelid = %s::regclass",
        [f"public.{table}"],
    ).fetchall()
    names = [row["attname"] for row in keys]
    with scratch.transaction():
        sides = (_keyed(live, "public", table, names), _keyed(scratch, "pg_temp", table, names))
        by_key = groupby(heapq.merge(*sides, key=itemgetter("key")), itemgetter("key"))
        pairs = ({each["side"]: each["row"] for each in rows} for _, rows in by_key)
        differing = (pair for pair in pairs if pair.get("public") != pair.get("pg_temp"))
        for pair in islice(differing, MOST_ROWS):
            stored, replayed = pair.get("public"), pair.get("pg_temp")
            row = stored or replayed or {}
            values = [
                f"{name} is {value!s:.100} and replays as {replayed[name]!s:.100}"
                for name, value in (stored or {}).items()
                if replayed and value != replayed[name]
            ]
            missing = "is not in the replay" if stored else "is missing"
            what = ", ".join(values[:MOST_ROWS]) or missing
            yield f"row {', '.join(f'{name} {row[name]!s:.100}' for name in names)}: {what}"


def _keyed(
    connection: Connection, schema: str, table: str, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table by key, without all of them in memory."""
    query = sql.SQL(
        'SELECT {} AS side, ROW({})::text COLLATE "C" AS key, to_jsonb(t) AS row FROM {} AS t '
        "ORDER BY key"
    ).format(schema, sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier(schema, table))
    with connection.cursor(name=schema) as cursor:
        yield from cursor.execute(query)


def _compare_balances(ledger: dict[str, int], folded: _Folded, findings: Findings) -> None:
    findings.trial_balance_micros = sum(ledger.values())
    if findings.trial_balance_micros != 0:
        findings.report(DifferenceKind.TRIAL_BALANCE, "the trial balance is not zero")
    for account in folded.accounts.values():
        findings.accounts += 1
        reserved = ledger.get(f"reserved:{account.id}", 0) - folded.unposted_micros(account.id)
        held = ledger.get(f"customer:{account.id}", 0) + reserved
        if (held, reserved) != (account.balance_micros, account.reserved_micros):
            findings.report(
                DifferenceKind.BALANCE,
                f"account {account.id} has {account.balance_micros:,} micro-dollars, of which "
                f"{account.reserved_micros:,} are reserved; its ledger has {held:,}, of which "
                f"{reserved:,} are reserved",
            )
        if not 0 <= account.reserved_micros <= account.balance_micros:
            findings.report(
                DifferenceKind.OVER_RESERVED,
                f"account {account.id} has reserved more than its balance",
            )


def _check_minutes(folded: _Folded, findings: Findings) -> None:
    """Check that minutes have no gaps, and sum to the rate × seconds within the guarantee.

    What the guarantee covers is the rest of the rate × seconds. The charges less credits of a job's
    meters must be within its guarantee.
    """
    findings.minutes = folded.minutes
    paid = Counter[UUID]()
    for event_id in folded.gaps:
        findings.report(
            DifferenceKind.MINUTE_GAP, f"minute {event_id} does not follow the previous minute"
        )
    for meter in folded.meters.values():
        findings.meters += 1
        rate, seconds = meter.rate_micros_per_hour, meter.billed_seconds
        owed = charge_within(rate, seconds, meter.guarantee_micros)
        charged, covered = folded.charged.get(meter.id, 0), folded.covered.get(meter.id, 0)
        if (charged, covered) != (owed, charge_micros(rate, seconds) - owed):
            findings.report(
                DifferenceKind.METER_CHARGE,
                f"meter {meter.id} charged {charged:,} micro-dollars for {seconds:,} s, and "
                f"covered {covered:,}; rate × seconds is {charge_micros(rate, seconds):,}, of "
                f"which the guarantee leaves {owed:,} to charge",
            )
        left = seconds - meter.credited_seconds
        paid[meter.job_id] += charge_within(rate, left, meter.guarantee_micros)
    for job_id, guarantee in folded.guarantees.items():
        if guarantee is not None and paid[job_id] > guarantee.micros:
            findings.report(
                DifferenceKind.METER_CHARGE,
                f"job {job_id} cost {paid[job_id]:,} micro-dollars; its guarantee is "
                f"{guarantee.micros:,}",
            )
