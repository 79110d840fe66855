"""A stored event with the proof that a signed tree head covers it.

The proof is RFC 9162's inclusion proof. It needs no trust in the log: only the log's public key,
which an auditor keeps, and the format of a leaf in `domain.audit.sealed_event`.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import StringConstraints

from domain.audit.merkle import includes
from domain.audit.sealed_event import StoredRow, sealed_events
from domain.audit.tree_head import InvalidHead, LogKey
from domain.core.value import Value

Hash = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
"""A SHA-256 hash in hexadecimal."""


class EventProof(Value):
    """The columns of a row of the event store, and its inclusion proof, from leaf to root."""

    format: Literal["ecolink-event-proof/1"] = "ecolink-event-proof/1"
    id: int
    originator_id: UUID
    originator_version: int
    topic: str
    state: str
    leaf_hash: Hash
    """Hash of the leaf that was sealed."""
    leaf_index: int
    inclusion_proof: tuple[Hash, ...]
    head: str
    """Signed head of the tree: a checkpoint with the tree's size and root."""
    public_key: str

    @property
    def row(self) -> StoredRow:
        """The row of the event store."""
        stream, state = self.originator_id.bytes, self.state.encode()
        return StoredRow(self.id, stream, self.originator_version, self.topic, state)

    @property
    def row_hash(self) -> str:
        """Hash of the event's row. It is the leaf's hash unless the event was changed."""
        ((_, leaf),) = sealed_events([self.row])
        return leaf.hex()

    def failures(self, key: LogKey) -> list[str]:
        """Return the reasons why the proof does not hold. An empty list proves the event."""
        found: list[str] = []
        if self.row_hash != self.leaf_hash:
            found.append(f"Event {self.id} was changed after it was sealed.")
        try:
            head = key.verify(self.head)
        except InvalidHead as error:
            return [*found, str(error)]
        leaf, proof = bytes.fromhex(self.leaf_hash), map(bytes.fromhex, self.inclusion_proof)
        if not includes(head.root, head.size, self.leaf_index, leaf, list(proof)):
            found.append("The inclusion proof does not lead to the root of the signed head.")
        return found
