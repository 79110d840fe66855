"""A benchmark of invoices: compare those of 1,000 simulated accounts with the ledger."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import psycopg
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from eventsourcing.persistence import StoredEvent
from psycopg.rows import dict_row
from rich.console import Console

from deploy.local.stack import up
from domain.audit.sealed_event import StoredRow
from domain.audit.tree_head import LogKey
from domain.core.recorded import Recorded
from extensions.invoices.account_rows import rows_of_account
from extensions.invoices.domain.invoice import Invoice, Period
from extensions.invoices.domain.sealed_invoice import verify_invoice
from extensions.invoices.invoice_file import verify_file
from extensions.invoices.invoice_pdf import invoice_pdf
from extensions.invoices.issuer import issue_invoice
from infrastructure.artifacts.store import Artifacts
from infrastructure.seals.archive import SealArchive
from infrastructure.seals.tree import SealedTree
from infrastructure.settings import Settings
from projections.billing_ledger import BILLING_LEDGER
from services.sealer.sealer import Sealer
from tests.bench.aims import Verdict, conclude
from tests.bench.meter_truth import MeterTruth
from tests.simulation.platform import EPOCH

ORIGIN, KEY = "ecolink/bench", Ed25519PrivateKey.generate()
PUBLIC = LogKey(ORIGIN, KEY.public_key())
PDF_EVERY = 10
"""Every tenth invoice is also made, verified and changed as a PDF."""

LEDGER = """
WITH moved AS (
    SELECT account_id, posted_at, reason, amount_micros,
        CASE WHEN debit IN ('cash', 'test money', 'credits', 'revenue') THEN amount_micros
             WHEN credit = 'revenue' THEN -amount_micros ELSE 0 END AS micros
    FROM billing_ledger)
SELECT account_id,
    coalesce(sum(micros) FILTER (WHERE posted_at < %(start)s), 0)::bigint AS opening_micros,
    coalesce(sum(micros) FILTER (WHERE posted_at < %(end)s), 0)::bigint AS closing_micros,
    coalesce(sum(amount_micros) FILTER (WHERE reason = 'topped up' AND here), 0)::bigint
        AS top_ups_micros,
    coalesce(sum(amount_micros) FILTER (WHERE reason = 'minute metered' AND here), 0)::bigint
        AS charges_micros,
    coalesce(sum(amount_micros) FILTER (WHERE reason = 'lost work credited' AND here), 0)::bigint
        AS lost_work_micros
FROM moved, LATERAL (SELECT posted_at >= %(start)s AND posted_at < %(end)s AS here) AS period
GROUP BY account_id
"""
"""The account's figures as the ledger has them."""

Connection = psycopg.Connection[dict[str, Any]]


@dataclass
class Recording(MeterTruth):
    """A simulation of which all rows are kept."""

    rows: list[StoredRow] = field(default_factory=list)

    def forget_finished(self) -> None:
        """Keep the new rows, then drop the streams of ended jobs."""
        after = self.rows[-1].notification_id if self.rows else 0
        while batch := self.log.recorder.select_notifications(start=after + 1, limit=500):
            for each in batch:
                assert isinstance(each.originator_id, UUID)
                columns = (each.id, each.originator_id.bytes, each.originator_version)
                self.rows.append(StoredRow(*columns, each.topic, bytes(each.state)))
            after = batch[-1].id
        super().forget_finished()

    @property
    def period(self) -> Period:
        """The middle third of the simulated time."""
        third = timedelta(seconds=(self.platform.now() - EPOCH).total_seconds() // 3)
        return Period(start=EPOCH + third, end=EPOCH + 2 * third)


def store_rows(store: Connection, truth: Recording) -> None:
    """Write all rows to the event store, and post them to the ledger."""
    store.execute("SET session_replication_role = replica")  # no trigger interferes
    store.execute("TRUNCATE ecolink_events")
    columns = "notification_id, originator_id, originator_version, topic, state"
    with (
        store.cursor() as cursor,
        cursor.copy(f"COPY ecolink_events ({columns}) FROM STDIN") as copy,
    ):
        for row in truth.rows:
            copy.write_row((row[0], UUID(bytes=row[1]), *row[2:]))
    with store.cursor() as cursor:
        batch: list[Recorded] = []
        for row in truth.rows:
            stored = StoredEvent(UUID(bytes=row[1]), *row[2:])
            event: Any = truth.log.mapper.to_domain_event(stored)
            batch.append(Recorded.of(row[0], event))
        BILLING_LEDGER.take(cursor, batch)
    store.commit()


def sealed_tree(store: Connection, artifacts: Artifacts) -> SealedTree:
    """Seal the log, and return its tree."""
    archive = SealArchive(artifacts)
    sealer = Sealer(archive, ORIGIN, KEY, lambda: datetime.now(UTC))
    while sealer.step(store):
        pass
    sealer.export()
    return SealedTree.newest(archive, PUBLIC)


def differences(invoice: Invoice, ledger: dict[str, Any]) -> int:
    """Return the micro-dollars by which an invoice and the ledger differ."""
    return sum(
        abs(getattr(invoice, name) - micros)
        for name, micros in ledger.items()
        if name != "account_id"
    )


def flipped(content: bytes, chance: random.Random) -> bytes:
    """Return a file with one changed bit."""
    changed = bytearray(content)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


@dataclass
class Results:
    """Counts and times over all invoices."""

    counts: Counter[str] = field(default_factory=Counter)
    events: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    issue_seconds: list[float] = field(default_factory=list)
    verify_seconds: list[float] = field(default_factory=list)


def check(
    store: Connection, tree: SealedTree, truth: Recording, ledger: dict[UUID, dict[str, Any]]
) -> Results:
    """Make, verify and change the invoice of each account."""
    results, chance = Results(), random.Random(truth.seed)
    counts, period = results.counts, truth.period
    for number, account_id in enumerate(truth.accounts):
        began = time.monotonic()
        content = issue_invoice(rows_of_account(store, account_id), tree, KEY, account_id, period)
        issued = time.monotonic()
        verified = verify_invoice(content, PUBLIC)
        results.issue_seconds.append(issued - began)
        results.verify_seconds.append(time.monotonic() - issued)
        results.events.append(verified.events)
        results.sizes.append(len(content))
        counts["invoices"] += 1
        counts["proven"] += not verified.failures
        assert verified.invoice is not None
        counts["lines"] += len(verified.invoice.lines)
        counts["charged"] += verified.invoice.charges_micros
        counts["credited"] += verified.invoice.lost_work_micros
        counts["difference"] += differences(verified.invoice, ledger[account_id])
        counts["changed"] += 1
        counts["noticed"] += bool(verify_invoice(flipped(content, chance), PUBLIC).failures)
        if number % PDF_EVERY == 0:
            pdf = invoice_pdf(content, KEY, PUBLIC)
            counts["pdfs"] += 1
            counts["proven pdfs"] += not verify_file(pdf, PUBLIC).failures
            counts["changed"] += 1
            counts["noticed"] += bool(verify_file(flipped(pdf, chance), PUBLIC).failures)
    return results


def measure(settings: Settings, truth: Recording) -> Results:
    """Store and seal the simulated rows, and check the invoice of each account."""
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url, row_factory=dict_row) as store:
        store_rows(store, truth)
        tree = sealed_tree(store, Artifacts(settings.artifacts))
        period = truth.period.model_dump()
        ledger = {row["account_id"]: row for row in store.execute(LEDGER, period).fetchall()}
        return check(store, tree, truth, ledger)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def bench(
    accounts: Annotated[int, typer.Option(min=1)] = 1000,
    minutes: Annotated[int, typer.Option(min=1, help="Job-minutes to bill.")] = 40_000,
    seed: Annotated[int, typer.Option(help="Of everything that happens by chance.")] = 1,
) -> None:
    """Simulate accounts with faults, and compare each invoice with the ledger to the micro-dollar.

    Also verifies each invoice with the public key alone, before and after a changed bit.
    """
    console = Console(highlight=False, soft_wrap=True)
    truth = Recording(seed, accounts)
    truth.run(minutes)
    console.print(f"{len(truth.rows):,} events of {accounts:,} accounts simulated, seed {seed}")
    with tempfile.TemporaryDirectory() as folder, up(Settings(home=Path(folder)), {}) as stack:
        results = measure(stack.settings, truth)
    counts = results.counts
    console.print(
        f"period {truth.period.start:%H:%M:%S} to {truth.period.end:%H:%M:%S} of a simulated day: "
        f"{counts['lines']:,} lines, {counts['charged']:,} micro-dollars charged, "
        f"{counts['credited']:,} credited for lost work"
    )
    console.print(
        f"per invoice, median: {median(results.events):,.0f} events, "
        f"{median(results.sizes) / 1024:,.0f} KiB, {1000 * median(results.issue_seconds):,.0f} ms "
        f"to make, {1000 * median(results.verify_seconds):,.0f} ms to verify"
    )
    wrong = counts["difference"]
    missed = counts["changed"] - counts["noticed"]
    unproven = counts["invoices"] - counts["proven"] + counts["pdfs"] - counts["proven pdfs"]
    conclude(
        console,
        (
            Verdict(f"{wrong} micro-dollars between invoices and ledger", "0", wrong == 0),
            Verdict(
                f"{unproven} of {counts['invoices']} invoices and {counts['pdfs']} PDFs not proven",
                "0",
                unproven == 0,
            ),
            Verdict(f"{missed} of {counts['changed']} changed bits missed", "0", missed == 0),
        ),
    )


if __name__ == "__main__":
    typer.run(bench)
