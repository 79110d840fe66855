"""Invoices from the rows of the event store and the exported seals."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest

from domain.audit.sealed_event import sealed_events
from domain.core.event_log import EventLog
from extensions.invoices.account_rows import rows_of_account
from extensions.invoices.domain.money_events import Inconsistent
from extensions.invoices.domain.sealed_invoice import verify_invoice
from extensions.invoices.issuer import issue_invoice
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import connect
from infrastructure.seals.archive import SealArchive, SealDamaged
from infrastructure.seals.tree import NotProvable, SealedTree
from infrastructure.settings import Settings
from tests.builders.bills import day
from tests.builders.examples import ACCOUNT_ID
from tests.extensions.invoices.bills import (
    KEY,
    NOVEMBER,
    PUBLIC,
    rows_of,
    sealed_tree,
    stored_rows,
    two_months,
)


@pytest.fixture
def archive(settings: Settings, log: EventLog) -> SealArchive:
    """The seals of a log with two months of bills."""
    two_months(log)
    made = SealArchive(Artifacts(settings.artifacts), 64)
    tree, rows = sealed_tree(stored_rows(log)), stored_rows(log)
    made.put_leaves(0, sealed_events(rows))
    made.put_head(tree.head, KEY)
    return made


def issue(settings: Settings, archive: SealArchive) -> bytes:
    with connect(settings) as store:
        rows = rows_of_account(store, ACCOUNT_ID)
    return issue_invoice(rows, SealedTree.newest(archive, PUBLIC), KEY, ACCOUNT_ID, NOVEMBER)


def test_an_invoice_from_the_database_is_proven(settings: Settings, archive: SealArchive) -> None:
    verified = verify_invoice(issue(settings, archive), PUBLIC)
    assert verified.failures == []
    assert verified.invoice is not None
    assert len(verified.invoice.lines) == 2


def test_only_the_account_s_rows_are_read(settings: Settings, log: EventLog) -> None:
    two_months(log)
    with connect(settings) as store:
        assert rows_of_account(store, ACCOUNT_ID) == rows_of(log)


def test_events_without_a_head_are_refused(
    settings: Settings, log: EventLog, archive: SealArchive
) -> None:
    tree = sealed_tree(stored_rows(log)[:-3])
    with connect(settings) as store:
        rows = rows_of_account(store, ACCOUNT_ID)
    with pytest.raises(NotProvable, match="no signed head yet"):
        issue_invoice(rows, tree, KEY, ACCOUNT_ID, NOVEMBER)


def test_a_head_from_before_the_end_of_the_period_is_refused(log: EventLog) -> None:
    two_months(log)
    tree = sealed_tree(stored_rows(log), day(11, 30))
    with pytest.raises(NotProvable, match="before the end of the period"):
        issue_invoice(rows_of(log), tree, KEY, ACCOUNT_ID, NOVEMBER)


def test_an_idle_log_gets_a_head_for_the_invoice(settings: Settings, log: EventLog) -> None:
    """Given a log without events since its newest head, which the sealer does not sign again."""
    two_months(log)
    old = sealed_tree(stored_rows(log), day(11, 30))
    with connect(settings) as store:
        tree = old.signed_again(store, KEY, day(12, 3))
    assert tree.head == replace(old.head, sealed_at=day(12, 3))
    content = issue_invoice(rows_of(log), tree, KEY, ACCOUNT_ID, NOVEMBER)
    assert verify_invoice(content, PUBLIC).failures == []


def test_a_head_that_lacks_events_is_not_signed_again(settings: Settings, log: EventLog) -> None:
    two_months(log)
    old = sealed_tree(stored_rows(log)[:-1], day(11, 30))
    with connect(settings) as store, pytest.raises(NotProvable, match="no signed head yet"):
        old.signed_again(store, KEY, day(12, 3))


def test_a_log_without_seals_is_refused(settings: Settings) -> None:
    with pytest.raises(NotProvable, match="Nothing is sealed yet"):
        SealedTree.newest(SealArchive(Artifacts(settings.artifacts)), PUBLIC)


def test_damaged_leaves_are_refused(settings: Settings, archive: SealArchive) -> None:
    artifacts = Artifacts(settings.artifacts)
    ref = artifacts.list("seals/leaves")[0]
    content = bytearray(artifacts.get(ref))
    content[20] ^= 1
    artifacts.put(ref, bytes(content))
    with pytest.raises(SealDamaged):
        issue(settings, archive)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("UPDATE ecolink_events SET state = state || ' '::bytea", NotProvable),
        ("UPDATE ecolink_events SET state = '\\xff'::bytea", Inconsistent),
        ("DELETE FROM ecolink_events", Inconsistent),
    ],
)
def test_a_changed_log_gives_no_invoice(
    settings: Settings, archive: SealArchive, change: str, error: type[Exception]
) -> None:
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url, autocommit=True) as superuser:
        superuser.execute("SET session_replication_role = replica")
        superuser.execute(
            f"{change} WHERE topic = 'ToppedUp' AND originator_version = "  # type: ignore[arg-type]
            "(SELECT min(originator_version) FROM ecolink_events WHERE topic = 'ToppedUp')"
        )
    with pytest.raises(error):
        issue(settings, archive)
