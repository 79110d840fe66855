"""The public key of the log, its newest head, and the proof that the log only grew."""

from __future__ import annotations

from dataclasses import dataclass

from domain.audit.consistency_proof import ConsistencyProof
from domain.audit.tree_head import InvalidHead, LogKey, TreeHead
from gateway.backend import Backend
from infrastructure.seals.archive import SealArchive, SealDamaged
from infrastructure.seals.proofs import consistency_of


@dataclass(frozen=True)
class Grown:
    """A newest head whose log begins with the events of a kept head."""

    kept: TreeHead
    proof: ConsistencyProof

    @property
    def document(self) -> str:
        """The document that `ecolink audit verify-head` verifies."""
        return self.proof.model_dump_json(indent=1)


@dataclass(frozen=True)
class PublishedSeals:
    """The published seals. `problem` is a sentence if they are damaged."""

    key: str | None = None
    note: str | None = None
    """Newest signed head, as an auditor keeps it."""
    head: TreeHead | None = None
    grown: Grown | None = None
    refused: str | None = None
    """Sentence that says why the kept head was refused."""
    problem: str | None = None


def published_seals(backend: Backend, kept_head: str) -> PublishedSeals:
    """Read the published key and the newest head. With a kept head, prove that the log grew."""
    archive = SealArchive(backend.artifacts)
    try:
        key = archive.public_key()
        note = None if key is None else archive.last_note(key)
        if key is None or note is None:
            return PublishedSeals(None if key is None else str(key))
        shown = PublishedSeals(str(key), note, key.verify(note))
        if not kept_head.strip():
            return shown
        return _grown(shown, archive, key, note, kept_head)
    except SealDamaged as damage:
        return PublishedSeals(problem=str(damage))


def _grown(
    shown: PublishedSeals, archive: SealArchive, key: LogKey, note: str, kept_head: str
) -> PublishedSeals:
    lines = (line.rstrip() for line in kept_head.strip().splitlines())
    refused: str | None = None
    grown: Grown | None = None
    try:
        kept = key.verify("\n".join(lines) + "\n")
        proof = consistency_of(note, kept, archive, key)
        refused = " ".join(proof.failures(key, kept)) or None
        grown = None if refused else Grown(kept, proof)
    except (InvalidHead, ValueError) as error:
        refused = str(error)
    return PublishedSeals(shown.key, shown.note, shown.head, grown, refused)
