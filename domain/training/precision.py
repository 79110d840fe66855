"""Precisions of the base model, and dtypes of computations."""

from __future__ import annotations

from enum import StrEnum


class Precision(StrEnum):
    """Precision of the base model's weights in memory."""

    BF16 = "bf16"
    FLOAT32 = "float32"
    NF4 = "nf4"  # 4-bit QLoRA; unquantized weights have the dtype of computations


class Dtype(StrEnum):
    """Dtype of a segment's computations. The hardware multiplies it natively."""

    BF16 = "bf16"
    FLOAT32 = "float32"

    @property
    def bytes(self) -> int:
        """Size of an element in bytes."""
        return 2 if self is Dtype.BF16 else 4

    @property
    def full(self) -> Precision:
        """Precision of a base model in this dtype, without quantization."""
        return Precision(self.value)
