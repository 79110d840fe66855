"""Role: what an account's holder is allowed to do."""

from enum import StrEnum


class Role(StrEnum):
    """Roles of an account and of its API keys."""

    USER = "user"
    OPERATOR = "operator"
