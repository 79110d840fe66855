"""What the embedded stack says to a person when it cannot do its work."""

from __future__ import annotations


class StackError(Exception):
    """The stack cannot start or be joined; the message says why and what to do."""
