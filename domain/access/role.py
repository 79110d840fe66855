"""Roles."""

from enum import StrEnum


class Role(StrEnum):
    """Roles of an account and of its API keys."""

    USER = "user"
    OPERATOR = "operator"
