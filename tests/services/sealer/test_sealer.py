"""Seals of the event log, and their verification after changes to the database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import REGISTRY

from domain.audit.sealed_event import sealed_events
from domain.audit.tree_head import LogKey
from domain.core.event_log import EventLog
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.event_rows import read_rows
from infrastructure.postgres.store import connect
from infrastructure.process.metrics import SEALED_TIME
from infrastructure.seals.archive import HEADS, LastHead, SealArchive, SealDamaged
from infrastructure.settings import Settings
from services.sealer.sealer import LogRewritten, Sealer
from services.sealer.verification import SealFindings, TamperKind, Trust, verify_seals
from tests.logs import grow, ids

SEAL_EVENTS, CHUNK_LEAVES = 50, 64
ORIGIN = "ecolink/test"
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = LogKey(ORIGIN, KEY.public_key())


class Seals:
    """A sealer, its archive, and an auditor."""

    def __init__(self, settings: Settings, log: EventLog) -> None:
        self.settings, self.log = settings, log
        self.artifacts = Artifacts(settings.artifacts)
        self.archive = SealArchive(self.artifacts, CHUNK_LEAVES)

    def sealer(self, last_head: LastHead | None = None) -> Sealer:
        archive = SealArchive(self.artifacts, CHUNK_LEAVES)
        made = Sealer(archive, ORIGIN, KEY, lambda: datetime.now(UTC), SEAL_EVENTS)
        made.last_head = last_head
        with connect(self.settings) as store:
            made.resume(store)
        return made

    def seal(self, sealer: Sealer | None = None) -> Sealer:
        """Seal the whole log."""
        sealer = sealer or self.sealer()
        with connect(self.settings) as store:
            while sealer.step(store):
                pass
            sealer.export()
        return sealer

    def verify(
        self, since: int = 0, on_progress: Callable[[int], object] = id, **trusted: Any
    ) -> SealFindings:
        trust = Trust(PUBLIC, **trusted)
        with connect(self.settings) as store:
            return verify_seals(store, self.archive, trust, since, on_progress)

    def tamper(self, statement: str, *values: Any) -> None:
        """Change the database as its superuser, whom no trigger stops."""
        assert self.settings.owner_database_url is not None
        with psycopg.connect(self.settings.owner_database_url, autocommit=True) as superuser:
            superuser.execute("SET session_replication_role = replica")
            superuser.execute(statement, values)  # type: ignore[arg-type]


@pytest.fixture
def seals(settings: Settings, log: EventLog) -> Seals:
    """A sealed log of 300 events."""
    grow(log, 150)
    made = Seals(settings, log)
    made.seal()
    grow(log, 150)
    made.seal()
    return made


def test_an_untouched_log_has_no_differences(seals: Seals) -> None:
    found = seals.verify()
    assert found.differences == []
    assert found.events == len(ids(seals.log))
    assert found.unsealed == 0
    assert found.head is not None
    assert found.head.last_event == ids(seals.log)[-1]


def test_a_head_is_exported_after_a_number_of_events(settings: Settings, log: EventLog) -> None:
    seals = Seals(settings, log)
    grow(log, 2 * SEAL_EVENTS)
    sealer = seals.sealer()
    with connect(settings) as store:
        while sealer.step(store):
            pass
    assert sealer.size == len(ids(log)) // SEAL_EVENTS * SEAL_EVENTS
    found = seals.verify()
    assert found.unsealed == len(ids(log)) - sealer.size
    assert found.heads == 2


def test_a_restarted_sealer_that_seals_nothing_exports_the_time_of_the_last_head(
    seals: Seals,
) -> None:
    head = seals.archive.last_head(PUBLIC)
    assert head is not None
    SEALED_TIME.set(0)
    seals.tamper("DELETE FROM ecolink_events WHERE notification_id = %s", head.last_event)
    with pytest.raises(LogRewritten):
        seals.sealer()
    exported = REGISTRY.get_sample_value("ecolink_sealed_timestamp_seconds")
    assert exported == head.sealed_at.timestamp()


def test_a_restarted_sealer_continues_the_same_tree(seals: Seals) -> None:
    grow(seals.log, 10)
    restarted = seals.sealer()
    seals.seal(restarted)
    found = seals.verify()
    assert found.differences == []
    assert found.events == restarted.size == len(ids(seals.log))


@pytest.mark.parametrize("stored", [None, bytes(32)])
def test_a_restarted_sealer_completes_the_roots(seals: Seals, stored: bytes | None) -> None:
    (ref,) = seals.artifacts.list("seals/roots")
    roots = seals.artifacts.get(ref)
    if stored is None:  # as in an archive of an earlier version
        seals.artifacts.delete(ref)
    else:
        seals.artifacts.put(ref, stored)
    seals.sealer()
    assert seals.artifacts.get(ref) == roots


def test_leaves_without_a_head_do_not_count(seals: Seals) -> None:
    size, last = seals.sealer().size, seals.artifacts.list("seals/leaves")[-1]
    seals.artifacts.put(last, seals.artifacts.get(last) + bytes(40))
    grow(seals.log, 1)
    assert seals.verify().unsealed == 1
    assert seals.seal().size == size + 1
    assert seals.verify().differences == []


EVENTS = "ecolink_events"
CHANGES: dict[str, tuple[str, TamperKind]] = {
    "a field": (
        f"UPDATE {EVENTS} SET state = state || ' '::bytea WHERE notification_id = %s",
        TamperKind.CHANGED,
    ),
    "an originator": (
        f"UPDATE {EVENTS} SET originator_id = gen_random_uuid() WHERE notification_id = %s",
        TamperKind.CHANGED,
    ),
    "a version": (
        f"UPDATE {EVENTS} SET originator_version = originator_version + 1000000 "
        "WHERE notification_id = %s",
        TamperKind.CHANGED,
    ),
    "a topic": (
        f"UPDATE {EVENTS} SET topic = topic || 'x' WHERE notification_id = %s",
        TamperKind.CHANGED,
    ),
    "an event": (f"DELETE FROM {EVENTS} WHERE notification_id = %s", TamperKind.DELETED),
    "a number": (
        f"UPDATE {EVENTS} SET notification_id = -notification_id WHERE notification_id = %s",
        TamperKind.DELETED,
    ),
}


def test_a_changed_row_is_named(seals: Seals, subtests: pytest.Subtests) -> None:
    known = ids(seals.log)
    seals.tamper(f"CREATE TABLE original AS TABLE {EVENTS}")
    for change, place in product(CHANGES, (0, 0.3, 1)):
        with subtests.test(f"{change} at {place}"):
            statement, kind = CHANGES[change]
            id = known[int(place * (len(known) - 1))]
            seals.tamper(statement, id)
            assert (kind, id, id) in [each[:3] for each in seals.verify().differences]
        seals.tamper(f"TRUNCATE {EVENTS}")
        seals.tamper(f"INSERT INTO {EVENTS} TABLE original")
        assert seals.verify().differences == []


def test_an_inserted_row_is_named(seals: Seals) -> None:
    hole = ids(seals.log)[100]
    seals.tamper(f"DELETE FROM {EVENTS} WHERE notification_id = %s", hole)
    first = ids(seals.log)[0]
    seals.tamper(
        f"INSERT INTO {EVENTS} SELECT originator_id, originator_version + 1000000, topic, state, "
        f"-1 FROM {EVENTS} WHERE notification_id = %s",
        first,
    )
    found = [each[:2] for each in seals.verify().differences]
    assert found == [(TamperKind.INSERTED, -1), (TamperKind.DELETED, hole)]


def test_a_lost_tail_is_named_event_by_event(seals: Seals) -> None:
    last = ids(seals.log)[-1]
    seals.tamper(f"DELETE FROM {EVENTS} WHERE notification_id > %s", last - 3)
    found = [each[:2] for each in seals.verify().differences]
    assert found == [(TamperKind.DELETED, id) for id in range(last - 2, last + 1)]


def test_a_rewritten_archive_is_located_between_two_heads(seals: Seals) -> None:
    """The attacker changed an event and its leaf, but has no key for the heads."""
    known = ids(seals.log)
    seals.tamper(CHANGES["a topic"][0], known[160])
    with connect(seals.settings) as store:
        rows = sealed_events(read_rows(store, 0, len(known)))
    seals.archive.put_leaves(0, rows)
    (found,) = seals.verify().differences
    assert found.kind is TamperKind.RANGE
    assert found.first <= known[160] <= found.last
    assert found.last - found.first < SEAL_EVENTS + 10


def test_a_forged_head_is_found(seals: Seals) -> None:
    (ref,) = seals.artifacts.list("seals/heads")
    seals.artifacts.put(ref, seals.artifacts.get(ref).replace(b"event ", b"event 1", 1))
    assert TamperKind.SEAL_DAMAGED in seals.verify().counts


def test_a_tree_that_was_sealed_again_with_the_stolen_key_differs_from_a_kept_head(
    seals: Seals,
) -> None:
    kept = seals.verify().head
    assert kept is not None
    seals.tamper(CHANGES["a topic"][0], ids(seals.log)[7])
    for ref in seals.artifacts.list("seals"):
        seals.artifacts.delete(ref)
    seals.seal()
    assert seals.verify().differences == []
    assert [each.kind for each in seals.verify(kept=[kept]).differences] == [TamperKind.RANGE]


@pytest.mark.parametrize("statement", [CHANGES["an event"][0], CHANGES["a field"][0]])
def test_the_sealer_refuses_a_log_that_changed(seals: Seals, statement: str) -> None:
    seals.tamper(statement, ids(seals.log)[-1])
    with pytest.raises(LogRewritten):
        seals.sealer()


def test_the_sealer_refuses_an_archive_that_changed(seals: Seals) -> None:
    ref = seals.artifacts.list("seals/leaves")[0]
    content = bytearray(seals.artifacts.get(ref))
    content[Random(0).randrange(len(content))] ^= 1
    seals.artifacts.put(ref, bytes(content))
    with pytest.raises(SealDamaged):
        seals.sealer()


def test_progress_is_the_last_compared_event(seals: Seals) -> None:
    reported: list[int] = []
    seals.verify(on_progress=reported.append)
    assert reported == sorted(reported)
    assert reported[-1] == ids(seals.log)[-1]


@pytest.mark.usefixtures("unseeded")
def test_events_without_a_head_for_long_are_a_difference(settings: Settings, log: EventLog) -> None:
    """The events of tests have a fixed time in the past."""
    grow(log, 1)
    found = Seals(settings, log).verify()
    assert found.head is None
    assert found.unsealed == len(ids(log))
    assert list(found.counts) == [TamperKind.NOT_SEALED]


def test_events_before_a_chosen_one_are_not_compared(seals: Seals) -> None:
    known = ids(seals.log)
    seals.tamper("UPDATE ecolink_events SET topic = 'x' WHERE notification_id = %s", known[99])
    since = seals.verify(since=known[99])
    assert (since.events, since.differences) == (len(known) - 100, [])
    assert seals.verify(since=known[98]).counts == {TamperKind.CHANGED: 1}


def test_a_sealer_refuses_an_archive_without_the_last_head_that_it_signed(
    seals: Seals, tmp_path: Path
) -> None:
    """Otherwise it would sign a changed log after somebody deleted the heads."""
    signing = seals.sealer(LastHead(tmp_path / "last-head"))
    grow(seals.log, 10)
    seals.seal(signing)
    seals.sealer(signing.last_head)
    seals.artifacts.delete_directory(HEADS)
    with pytest.raises(SealDamaged):
        seals.sealer(signing.last_head)


def test_a_sealer_refuses_leaves_other_than_those_that_it_signed(
    seals: Seals, tmp_path: Path
) -> None:
    last_head = LastHead(tmp_path / "last-head")
    grow(seals.log, 10)
    signing = seals.seal(seals.sealer(last_head))
    forged = Seals(seals.settings, seals.log)
    seals.tamper("UPDATE ecolink_events SET topic = 'x' WHERE notification_id = %s", 1)
    forged.artifacts.delete_directory("seals")
    forged.seal(forged.sealer())
    assert forged.verify().head is not None
    with pytest.raises(SealDamaged):
        seals.sealer(signing.last_head)


def test_a_sealer_refuses_an_event_far_beyond_the_others(seals: Seals) -> None:
    known = ids(seals.log)
    grow(seals.log, 1)
    seals.tamper(
        "UPDATE ecolink_events SET notification_id = 4611686018427387904 "
        "WHERE notification_id > %s",
        known[-1],
    )
    with pytest.raises(LogRewritten):
        seals.seal()


@pytest.mark.parametrize("column", ["topic", "state", "originator_version", "originator_id"])
def test_a_missing_value_is_a_change(seals: Seals, column: str) -> None:
    seals.tamper("ALTER TABLE ecolink_events DROP CONSTRAINT ecolink_events_pkey")
    seals.tamper(f"ALTER TABLE ecolink_events ALTER {column} DROP NOT NULL")
    seals.tamper(f"UPDATE ecolink_events SET {column} = NULL WHERE notification_id = 7")
    assert seals.verify().counts == {TamperKind.CHANGED: 1}


def test_an_unsealed_event_without_a_readable_time_is_a_difference(
    seals: Seals, subtests: pytest.Subtests
) -> None:
    known = ids(seals.log)
    grow(seals.log, 1)
    for state in (b"", b"{}", b"no json", b"\xff", b"[]"):
        with subtests.test(repr(state)):
            seals.tamper(
                "UPDATE ecolink_events SET state = %s WHERE notification_id > %s", state, known[-1]
            )
            assert TamperKind.NOT_SEALED in seals.verify().counts


@pytest.mark.parametrize("content", [b"", b"7\n", b"{}\n"])
def test_a_file_of_heads_with_other_content_is_damaged(seals: Seals, content: bytes) -> None:
    for ref in seals.artifacts.list(HEADS):
        seals.artifacts.put(ref, content)
    with pytest.raises(SealDamaged):
        seals.sealer()


def test_a_head_that_was_exported_twice_is_no_difference(seals: Seals) -> None:
    (ref,) = seals.artifacts.list(HEADS)
    lines = seals.artifacts.get(ref)
    seals.artifacts.put(ref, lines + lines.splitlines(keepends=True)[-1])
    assert seals.verify().differences == []
