"""Numbers whose bounds fit the columns of the read models."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, WithJsonSchema

Count = Annotated[int, Field(ge=0, lt=2**31), WithJsonSchema({"type": "integer"})]
"""A 32-bit count. The bounds protect read models from faulty trainers; no schema shows them."""

Size = Annotated[int, Field(ge=0, lt=2**53), WithJsonSchema({"type": "integer"})]
"""A non-negative number of bytes or tokens."""

Seconds = Annotated[float, Field(ge=0, lt=2**31, allow_inf_nan=False)]
"""Seconds that fit into every read model."""
