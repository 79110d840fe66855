"""Precision: how the base's weights are held, and which numbers a segment computes with."""

from __future__ import annotations

from enum import StrEnum


class Precision(StrEnum):
    """How the base's weights are held while the adapter trains."""

    BF16 = "bf16"
    FLOAT32 = "float32"
    NF4 = "nf4"  # 4-bit QLoRA; what is not quantised is held in the dtype


class Dtype(StrEnum):
    """Numbers that a segment computes with, chosen by what its hardware multiplies natively."""

    BF16 = "bf16"
    FLOAT32 = "float32"

    @property
    def bytes(self) -> int:
        """Bytes of a number."""
        return 2 if self is Dtype.BF16 else 4

    @property
    def full(self) -> Precision:
        """The precision of a base that is not quantised."""
        return Precision(self.value)
