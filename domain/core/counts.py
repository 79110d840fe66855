"""Bounded numbers: every column of a read model has room for them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, WithJsonSchema

Count = Annotated[int, Field(ge=0, lt=2**31), WithJsonSchema({"type": "integer"})]
"""A whole number that a 32-bit integer column can store.

The published schema omits the bounds: they protect the read models from a faulty trainer."""
