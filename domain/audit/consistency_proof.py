"""A signed tree head with the proof that its log begins with the events of an earlier head.

The proof is RFC 9162's consistency proof. An auditor verifies it with the earlier head and the
public key, which they keep. It needs no access to the log.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from domain.audit.event_proof import Hash
from domain.audit.merkle import is_consistent
from domain.audit.tree_head import InvalidHead, LogKey, TreeHead
from domain.core.value import Value


class ConsistencyProof(Value):
    """A head, and the proof for a tree of the first `earlier_size` events."""

    format: Literal["ecolink-consistency-proof/1"] = "ecolink-consistency-proof/1"
    earlier_size: Annotated[int, Field(ge=1)]
    consistency_proof: tuple[Hash, ...]
    head: str
    """Signed head of the later tree: a checkpoint with the tree's size and root."""
    public_key: str

    def failures(self, key: LogKey, kept: TreeHead) -> list[str]:
        """Return the reasons why the log of the head may not be the one of the kept head, grown.

        An empty list proves that it only appended events. The key has signed the kept head.
        """
        try:
            head = key.verify(self.head)
        except InvalidHead as error:
            return [str(error)]
        if head.size < kept.size:
            return [
                f"The head has {head.size:,} events, but the kept head already had {kept.size:,}. "
                "The log lost events, or the head is older than the kept one."
            ]
        if self.earlier_size != kept.size:
            return [
                f"The proof is for an earlier head of {self.earlier_size:,} events, but the kept "
                f"head has {kept.size:,}. Request the proof with the kept head."
            ]
        proof = [bytes.fromhex(node) for node in self.consistency_proof]
        if not is_consistent(kept.root, kept.size, head.root, head.size, proof):
            return [
                f"The log of {head.size:,} events does not begin with the {kept.size:,} events of "
                "the kept head: someone changed or deleted some of them, or the proof is damaged."
            ]
        return []
