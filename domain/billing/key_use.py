"""The charges and leases that count against an API key."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from domain.billing.budget import spent_after
from domain.core.value import Value


@dataclass(frozen=True)
class Share:
    """A part of a settlement, in micro-dollars."""

    captured_micros: int = 0
    reserved_micros: int = 0
    second_micros: int = 0
    """Highest price of one second of the running segments."""


class KeyShare(Value):
    """The part of a settlement that counts against one API key, in micro-dollars."""

    key_id: UUID
    captured_micros: int
    reserved_micros: int


class KeyUse(Value):
    """All leases and charges of an account that count against one API key, in micro-dollars."""

    reserved_micros: int = 0
    charged_micros: int = 0  # charges less credits since the key was issued

    def settled(self, share: KeyShare) -> KeyUse:
        """Return the use after a settlement."""
        return KeyUse(
            reserved_micros=self.reserved_micros + share.reserved_micros - share.captured_micros,
            charged_micros=spent_after((share.captured_micros,), self.charged_micros),
        )

    def credited(self, micros: int) -> KeyUse:
        """Return the use after a credit."""
        charged = spent_after((-micros,), self.charged_micros)
        return self.model_copy(update={"charged_micros": charged})
