"""Reasons for which an operator suspends an account."""

from __future__ import annotations

from enum import StrEnum


class SuspensionReason(StrEnum):
    """Reason for a suspension. Events contain only this code, because they hold no free text."""

    PAYMENT = "payment"
    ABUSE = "abuse"
    SECURITY = "security"
    REQUEST = "request"
    OTHER = "other"

    @property
    def sentence(self) -> str:
        """The reason as a sentence for the account holder."""
        return SENTENCES[self]


SENTENCES = {
    SuspensionReason.PAYMENT: "A payment failed or is disputed.",
    SuspensionReason.ABUSE: "It was used against the operator's rules.",
    SuspensionReason.SECURITY: "Another person may have used it.",
    SuspensionReason.REQUEST: "Its owner requested it.",
    SuspensionReason.OTHER: "Your operator can tell you the reason.",
}
