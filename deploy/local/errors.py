"""Errors of the embedded stack."""

from __future__ import annotations


class StackError(Exception):
    """The stack cannot start or be joined. The message states the reason and what to do."""
