"""Kinds of findings in the examples of a dataset."""

from __future__ import annotations

from enum import StrEnum


class Finding(StrEnum):
    """Kinds of findings about an example."""

    NEAR_DUPLICATE = "near_duplicate"
    HELD_OUT_LEAK = "held_out_leak"
    EMAIL_ADDRESS = "email_address"
    PHONE_NUMBER = "phone_number"
    CREDIT_CARD = "credit_card"
    IBAN = "iban"
    IP_ADDRESS = "ip_address"
    NATIONAL_ID = "national_id"
    CRYPTO_ADDRESS = "crypto_address"
    SECRET = "secret"
    SHORT_ANSWER = "short_answer"
    REFUSAL = "refusal"
    TRUNCATED_ANSWER = "truncated_answer"
    UNUSUALLY_LONG = "unusually_long"
    OTHER_LANGUAGE = "other_language"


PERSONAL = (
    Finding.EMAIL_ADDRESS,
    Finding.PHONE_NUMBER,
    Finding.CREDIT_CARD,
    Finding.IBAN,
    Finding.IP_ADDRESS,
    Finding.NATIONAL_ID,
    Finding.CRYPTO_ADDRESS,
    Finding.SECRET,
)
"""Kinds of personal data and secrets, which EcoLink can mask."""

ANSWERS = (Finding.SHORT_ANSWER, Finding.REFUSAL, Finding.TRUNCATED_ANSWER)
"""Kinds of findings about the last answer of an example."""
