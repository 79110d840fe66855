"""Precision: how the base's weights are held while the adapter trains."""

from __future__ import annotations

from enum import StrEnum


class Precision(StrEnum):
    """How the base's weights are held while the adapter trains."""

    BF16 = "bf16"
    NF4 = "nf4"  # 4-bit QLoRA
