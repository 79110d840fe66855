"""Limits of the HTTP servers, each with a name, default, scope and header.

Operators change them with `ECOLINK_LIMITS`, a JSON object that maps names to numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """The scope in which a limit applies."""

    PROCESS = "process"
    ADDRESS = "client address"
    CONNECTION = "connection"
    ACCOUNT = "account"


@dataclass(frozen=True)
class Limit:
    """A limit. With `per_seconds`, it is a rate that allows bursts of the whole amount."""

    name: str
    default: int
    scope: Scope
    description: str
    per_seconds: int | None = None
    header: str | None = None
    """The last part of its `x-ratelimit-*` headers, named as in OpenAI's API where possible."""


TABLE = (
    Limit("connections", 2_000, Scope.PROCESS, "Open connections, WebSockets included."),
    Limit("address_connections", 256, Scope.ADDRESS, "Open connections of one client address."),
    Limit("head_seconds", 10, Scope.CONNECTION, "Time for the head of a request, s."),
    # HTTP libraries reuse idle connections for 5 s (httpx) to 15 s (aiohttp).
    Limit("idle_seconds", 75, Scope.CONNECTION, "Time between two requests, s."),
    Limit("body_bytes_per_second", 512, Scope.CONNECTION, "Lowest rate of a body."),
    Limit("body_window_seconds", 15, Scope.CONNECTION, "Time over which that rate is measured, s."),
    Limit(
        "write_stall_seconds", 60, Scope.CONNECTION, "Time without progress of a slow reader, s."
    ),
    Limit("all_uploads", 32, Scope.PROCESS, "Concurrent uploads."),
    Limit("address_requests", 12_000, Scope.ADDRESS, "Requests, signed in or not.", 60),
    Limit(
        "refused_credentials",
        20,
        Scope.ADDRESS,
        "Different wrong keys or sign-in links before a lockout.",
        900,
    ),
    Limit("requests", 6_000, Scope.ACCOUNT, "Requests.", 60, "requests"),
    Limit("changes", 600, Scope.ACCOUNT, "Requests other than GET.", 60, "changes"),
    Limit("key_changes", 30, Scope.ACCOUNT, "Keys created or revoked.", 600, "key-changes"),
    Limit("chats", 1_200, Scope.ACCOUNT, "Chat completions.", 60, "requests"),
    Limit(
        "prompt_tokens",
        2_000_000,
        Scope.ACCOUNT,
        "Prompt tokens of chats, counted for each of the `n` choices.",
        60,
        "tokens",
    ),
    Limit("keys", 100, Scope.ACCOUNT, "Valid API keys.", header="keys"),
    Limit("datasets", 2_000, Scope.ACCOUNT, "Datasets.", header="datasets"),
    Limit("dataset_gib", 256, Scope.ACCOUNT, "Total size of datasets, GiB.", header="bytes"),
    Limit("uploads", 6, Scope.ACCOUNT, "Concurrent uploads.", header="uploads"),
    Limit("sockets", 64, Scope.ACCOUNT, "Open WebSockets and waiting requests.", header="sockets"),
)

LIMITS: Mapping[str, Limit] = {limit.name: limit for limit in TABLE}


def known_limits(changed: dict[str, int]) -> dict[str, int]:
    """Return all limits with the changes.

    Raise ValueError for an unknown name or a value below 1.
    """
    for name, value in changed.items():
        if name not in LIMITS:
            raise ValueError(f"unknown limit {name!r}; choose from {', '.join(LIMITS)}")
        if value < 1:
            raise ValueError(f"the limit {name} is {value}; it must be at least 1")
    return changed


class Limits:
    """The limits in force: the defaults with an operator's changes."""

    def __init__(self, changed: Mapping[str, int]) -> None:
        self._values = {limit.name: limit.default for limit in TABLE} | dict(changed)

    def __getitem__(self, name: str) -> int:
        return self._values[name]
