"""Integers with bounds that fit the columns of the read models."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, WithJsonSchema

Count = Annotated[int, Field(ge=0, lt=2**31), WithJsonSchema({"type": "integer"})]
"""A whole number that fits a 32-bit integer column.

The published schema omits the bounds. They protect the read models from a faulty trainer.
"""
