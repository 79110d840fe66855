"""Invoices from the rows of the event store and the exported seals."""

from __future__ import annotations

import psycopg
import pytest

from domain.audit.money_events import Inconsistent
from domain.audit.sealed_event import sealed_events
from domain.audit.sealed_invoice import verify_invoice
from domain.core.event_log import EventLog
from infrastructure.account_rows import rows_of_account, rows_with_topics
from infrastructure.artifacts import Artifacts
from infrastructure.invoices import NotProvable, SealedTree, issue_invoice
from infrastructure.seal_archive import SealArchive, SealDamaged
from infrastructure.settings import Settings
from infrastructure.store import connect
from tests.builders.bills import (
    KEY,
    NOVEMBER,
    PUBLIC,
    rows_of,
    sealed_tree,
    stored_rows,
    two_months,
)
from tests.builders.examples import ACCOUNT_ID


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
        wanted = [row for row in stored_rows(log) if row.topic in ("ToppedUp", "JobApproved")]
        assert list(rows_with_topics(store, ["ToppedUp", "JobApproved"])) == wanted


def test_events_without_a_head_are_refused(
    settings: Settings, log: EventLog, archive: SealArchive
) -> None:
    tree = sealed_tree(stored_rows(log)[:-3])
    with connect(settings) as store:
        rows = rows_of_account(store, ACCOUNT_ID)
    with pytest.raises(NotProvable, match="no signed head yet"):
        issue_invoice(rows, tree, KEY, ACCOUNT_ID, NOVEMBER)


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
        SealedTree.newest(archive, PUBLIC)


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
