"""Proofs of events from the exported seals."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.audit.merkle import root_of
from domain.audit.sealed_event import SealedEvent, StoredRow, sealed_events
from domain.audit.tree_head import LogKey, TreeHead
from infrastructure.artifacts.store import Artifacts
from infrastructure.seals import archive as seal_archive
from infrastructure.seals.archive import SealArchive
from infrastructure.seals.proofs import SealStatus, consistency_of, evidence_of
from infrastructure.settings import Settings

CHUNK = 4
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = LogKey("ecolink/test", KEY.public_key())


def rows(count: int) -> list[StoredRow]:
    """Rows with only even notification IDs."""
    return [StoredRow(2 * n, bytes(16), n, "Topic", b"{}") for n in range(1, count + 1)]


def sealed(settings: Settings, log: list[StoredRow]) -> SealArchive:
    archive = SealArchive(Artifacts(settings.artifacts), CHUNK)
    leaves = sealed_events(log)
    root = root_of([leaf for _, leaf in leaves])
    archive.put_public_key(PUBLIC)
    archive.put_leaves(0, leaves)
    head = TreeHead(PUBLIC.origin, len(log), root, log[-1].notification_id, datetime.now(UTC))
    archive.put_head(head, KEY)
    return archive


@pytest.mark.parametrize("count", [1, 2, 4, 5, 11, 16, 19])
def test_every_event_of_a_tree_of_several_chunks_is_proven(settings: Settings, count: int) -> None:
    log = rows(count)
    archive = sealed(settings, log)
    for row in log:
        found = evidence_of(row, archive)
        assert found.status is SealStatus.PROVEN
        assert found.proof is not None
        assert found.proof.failures(PUBLIC) == []


def test_a_changed_and_an_inserted_event_are_not_proven(settings: Settings) -> None:
    log = rows(11)
    archive = sealed(settings, log)
    changed = evidence_of(log[6]._replace(state=b"[]"), archive)
    assert changed.status is SealStatus.CHANGED
    inserted = evidence_of(log[6]._replace(notification_id=7), archive)
    assert inserted.status is SealStatus.INSERTED
    newer = evidence_of(log[6]._replace(notification_id=99), archive)
    assert newer.status is SealStatus.NOT_SEALED


def test_changed_leaves_do_not_prove_an_event(settings: Settings) -> None:
    log = rows(11)
    archive = sealed(settings, log)
    archive.put_leaves(0, sealed_events([log[0]._replace(state=b"[]"), *log[1:CHUNK]]))
    for row in (log[1], log[8]):
        found = evidence_of(row, archive)
        assert found.status is SealStatus.SEALS_DAMAGED
        assert found.problem is not None
        assert "do not have the root of their head" in found.problem


def stored_beside(ids: dict[int, int], log: list[StoredRow]) -> list[SealedEvent]:
    """The leaves of a log, with other IDs beside those of some events."""
    return [
        each._replace(notification_id=ids.get(each.notification_id, each.notification_id))
        for each in sealed_events(log)
    ]


@pytest.mark.parametrize(
    "ids",
    [{14: 13}, {14: 999}, {16: 3}, {14: 12, 12: 14}, {22: 1}],
    ids=["of no event", "of the end", "of the chunk's last leaf", "swapped", "of the last chunk"],
)
def test_a_changed_id_beside_a_leaf_changes_no_proof(
    settings: Settings, ids: dict[int, int]
) -> None:
    log = rows(11)
    archive = sealed(settings, log)
    archive.put_leaves(0, stored_beside(ids, log))  # the root of leaves covers no ID
    for row in log:
        found = evidence_of(row, archive)
        assert found.status is SealStatus.PROVEN
        assert found.proof is not None
        assert found.proof.failures(PUBLIC) == []


def test_an_event_that_took_the_id_beside_a_leaf_is_not_proven(settings: Settings) -> None:
    log = rows(11)
    archive = sealed(settings, log)
    archive.put_leaves(0, stored_beside({14: 13}, log))
    forged = log[6]._replace(notification_id=13)
    assert evidence_of(forged, archive).status is SealStatus.CHANGED
    missing = evidence_of(log[6]._replace(notification_id=15), archive)
    assert (missing.status, missing.problem) == (
        SealStatus.INSERTED,
        "Event 15 is not in the seals, but they have later events.",
    )


def test_a_lost_leaf_is_not_reported_as_an_inserted_event(settings: Settings) -> None:
    log = rows(11)
    archive = sealed(settings, log)
    roots = Artifacts(settings.artifacts).get(ROOT_FILES[0])
    archive.put_leaves(CHUNK, sealed_events([*log[4:6], log[9], *log[7:11]]))
    Artifacts(settings.artifacts).put(ROOT_FILES[0], roots)
    found = evidence_of(log[6], archive)
    assert (found.status, found.problem) == (
        SealStatus.SEALS_DAMAGED,
        "The leaves from index 4 on do not have the root that was signed.",
    )


def test_a_missing_file_of_leaves_is_named_without_a_path(settings: Settings) -> None:
    log = rows(11)
    archive = sealed(settings, log)
    Artifacts(settings.artifacts).delete(f"seals/leaves/{CHUNK:012}")
    found = evidence_of(log[6], archive)
    assert (found.status, found.problem) == (
        SealStatus.SEALS_DAMAGED,
        "The leaves from index 4 on are missing.",
    )


class CountedArtifacts(Artifacts):
    """Artifacts that count the files of leaves that were read."""

    leaf_files = 0

    def get(self, ref: str) -> bytes:
        self.leaf_files += ref.startswith("seals/leaves")
        return super().get(ref)


def test_a_proof_reads_few_of_the_leaves(settings: Settings) -> None:
    log = rows(64 * CHUNK)
    sealed(settings, log)
    artifacts = CountedArtifacts(settings.artifacts)
    assert evidence_of(log[100], SealArchive(artifacts, CHUNK)).status is SealStatus.PROVEN
    assert 0 < artifacts.leaf_files <= 8  # of 64: six of the search, and its result


def test_an_archive_that_grew_has_the_roots_of_all_complete_chunks(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal_archive, "FILE_ROOTS", 2)
    leaves = sealed_events(rows(7 * CHUNK + 1))
    archive = SealArchive(Artifacts(settings.artifacts), CHUNK)
    for first, end in ((0, 1), (0, 9), (8, 9), (8, 28), (28, 29)):
        archive.put_leaves(first, leaves[first:end])
    stored = b"".join(archive_file(settings, ref) for ref in ROOT_FILES)
    ends = range(CHUNK, 7 * CHUNK + 1, CHUNK)
    roots = [root_of([leaf for _, leaf in leaves[end - CHUNK : end]]) for end in ends]
    assert stored == b"".join(roots)


ROOT_FILES = [f"seals/roots/{start:012}" for start in (0, 2, 4, 6)]


def archive_file(settings: Settings, ref: str) -> bytes:
    return Artifacts(settings.artifacts).get(ref)


@pytest.mark.parametrize(
    "stored", [None, b"", b"short", bytes(32) * 3], ids=["no", "empty", "short", "wrong"]
)
def test_missing_or_wrong_roots_neither_break_nor_make_a_proof(
    settings: Settings, stored: bytes | None
) -> None:
    log = rows(3 * CHUNK + 1)
    archive = sealed(settings, log)
    artifacts = Artifacts(settings.artifacts)
    if stored is None:
        artifacts.delete(ROOT_FILES[0])
    else:
        artifacts.put(ROOT_FILES[0], stored)
    assert evidence_of(log[5], archive).status is SealStatus.PROVEN
    changed = log[5]._replace(state=b"[]")
    assert evidence_of(changed, archive).status is SealStatus.CHANGED
    archive.put_leaves(0, sealed_events([*log[:5], changed, *log[6:8]]))  # with their roots
    assert evidence_of(changed, archive).status is SealStatus.SEALS_DAMAGED


def test_an_archive_without_seals_proves_nothing(settings: Settings) -> None:
    archive = SealArchive(Artifacts(settings.artifacts), CHUNK)
    assert evidence_of(rows(1)[0], archive).status is SealStatus.NOT_SEALED


def test_a_proof_of_another_key_fails(settings: Settings) -> None:
    log = rows(5)
    found = evidence_of(log[2], sealed(settings, log)).proof
    assert found is not None
    other = LogKey(PUBLIC.origin, Ed25519PrivateKey.generate().public_key())
    assert found.failures(other) != []


def head_of(log: list[StoredRow]) -> TreeHead:
    root = root_of([leaf for _, leaf in sealed_events(log)])
    return TreeHead(PUBLIC.origin, len(log), root, log[-1].notification_id, datetime.now(UTC))


@pytest.mark.parametrize("size", [1, 3, 4, 5, 8, 11, 16, 19, 29])
def test_a_head_is_consistent_with_every_earlier_one(settings: Settings, size: int) -> None:
    log = rows(size)
    archive = sealed(settings, log)
    note = archive.last_note(PUBLIC)
    assert note is not None
    for earlier in range(1, size + 1):
        kept = head_of(log[:earlier])
        proof = consistency_of(note, kept, archive, PUBLIC)
        assert proof.failures(PUBLIC, kept) == []
        changed = head_of([log[0]._replace(state=b"[]"), *log[1:earlier]])
        (failure,) = proof.failures(PUBLIC, changed)
        assert "does not begin with" in failure


def test_a_proof_of_consistency_fits_no_other_head_or_key(settings: Settings) -> None:
    log = rows(11)
    archive = sealed(settings, log)
    note = archive.last_note(PUBLIC)
    assert note is not None
    proof = consistency_of(note, head_of(log[:6]), archive, PUBLIC)
    assert "Request the proof with the kept head" in proof.failures(PUBLIC, head_of(log[:5]))[0]
    assert "The log lost events" in proof.failures(PUBLIC, head_of(rows(12)))[0]
    other = LogKey(PUBLIC.origin, Ed25519PrivateKey.generate().public_key())
    assert "not signed" in proof.failures(other, head_of(log[:6]))[0]
    with pytest.raises(ValueError, match="The archive lost heads"):
        consistency_of(note, head_of(rows(12)), archive, PUBLIC)
