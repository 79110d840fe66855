"""Limits of the HTTP servers, with a header each. Those of extensions are in their declarations."""

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
    refusal: str = ""
    """Sentence of a refusal with 429, with `{limit}` and, for a quota, `{used}`."""


TABLE = (
    Limit("connections", 2_000, Scope.PROCESS, "Open connections, including WebSockets."),
    Limit("address_connections", 256, Scope.ADDRESS, "Open connections of one client address."),
    Limit("head_seconds", 10, Scope.CONNECTION, "Seconds to receive the head of a request."),
    # HTTP libraries reuse idle connections for 5 s (httpx) to 15 s (aiohttp).
    Limit("idle_seconds", 75, Scope.CONNECTION, "Seconds between two requests."),
    Limit("body_bytes_per_second", 512, Scope.CONNECTION, "Minimum rate of a request body."),
    Limit(
        "body_window_seconds",
        15,
        Scope.CONNECTION,
        "Seconds over which EcoLink measures the rate of a request body.",
    ),
    Limit(
        "write_stall_seconds",
        60,
        Scope.CONNECTION,
        "Seconds in which a client may read nothing of a response.",
    ),
    Limit(
        "all_uploads",
        32,
        Scope.PROCESS,
        "Concurrent uploads. Half of them are for accounts without another upload.",
        refusal="EcoLink accepts at most {limit} concurrent uploads. Try again later.",
    ),
    Limit(
        "hub_imports",
        4,  # each may store twice the largest dataset in the temporary folder
        Scope.PROCESS,
        "Concurrent imports of datasets from a hub.",
        refusal="EcoLink imports at most {limit} datasets from a hub at the same time. Try again "
        "later.",
    ),
    Limit(
        "all_audits",
        8,
        Scope.PROCESS,
        "Concurrent requests for audit pages.",
        refusal="EcoLink answers at most {limit} concurrent requests for audit pages. Try again "
        "later.",
    ),
    Limit(
        "all_checks",
        1,
        Scope.PROCESS,
        "Concurrent requests for the page with checks of the machine.",
        refusal="The maximum of concurrent requests for the page of checks is {limit}. Try again "
        "later.",
    ),
    Limit(
        "address_requests",
        12_000,
        Scope.ADDRESS,
        "Requests, signed in or not.",
        60,
        refusal="A client address can send at most {limit} requests per minute.",
    ),
    Limit(
        "refused_credentials",
        20,
        Scope.ADDRESS,
        "Different wrong keys or sign-in links before a lockout.",
        900,
    ),
    Limit(
        "requests",
        6_000,
        Scope.ACCOUNT,
        "Requests.",
        60,
        "requests",
        "Your account can send at most {limit} requests per minute.",
    ),
    Limit(
        "changes",
        600,
        Scope.ACCOUNT,
        "Requests other than GET.",
        60,
        "changes",
        "Your account can send at most {limit} requests other than GET per minute.",
    ),
    Limit(
        "key_changes",
        30,
        Scope.ACCOUNT,
        "API keys created or revoked.",
        600,
        "key-changes",
        "Your account can create or revoke at most {limit} API keys in 10 minutes.",
    ),
    Limit(
        "chats",
        1_200,
        Scope.ACCOUNT,
        "Chat completions.",
        60,
        "requests",
        "Your account can request at most {limit} chat completions per minute.",
    ),
    Limit(
        "prompt_tokens",
        2_000_000,
        Scope.ACCOUNT,
        "Prompt tokens of chats, counted for each of the `n` choices.",
        60,
        "tokens",
        "Your account can send at most {limit} prompt tokens of chats per minute, counted for each "
        "of the `n` choices.",
    ),
    Limit(
        "keys",
        100,
        Scope.ACCOUNT,
        "Valid API keys.",
        header="keys",
        refusal="Your account has the maximum of {limit} valid API keys. Revoke some, or ask your "
        "operator for a higher quota.",
    ),
    Limit(
        "datasets",
        2_000,
        Scope.ACCOUNT,
        "Datasets.",
        header="datasets",
        refusal="Your account has the maximum of {limit} datasets. Delete some, or ask your "
        "operator for a higher quota.",
    ),
    Limit(
        "dataset_gib",
        256,
        Scope.ACCOUNT,
        "Total size of datasets, GiB.",
        header="bytes",
        refusal="The datasets of your account use the maximum of {limit} GiB. Delete some, or ask "
        "your operator for a higher quota.",
    ),
    Limit(
        "uploads",
        6,
        Scope.ACCOUNT,
        "Concurrent uploads.",
        header="uploads",
        refusal="Your account can run at most {limit} uploads at the same time. Try again when an "
        "upload ends.",
    ),
    Limit(
        "jobs",
        200,
        Scope.ACCOUNT,
        "Jobs that are not finished, including paused ones.",
        header="jobs",
        refusal="Your account has {used} unfinished jobs, and the maximum is {limit}. Cancel some, "
        "wait until some end, or ask your operator for a higher quota.",
    ),
    Limit(
        "audits",
        4,  # the slider of a job sends several requests per second
        Scope.ACCOUNT,
        "Concurrent requests for audit pages.",
        header="audits",
        refusal="Your account can send at most {limit} concurrent requests for audit pages. Try "
        "again when one ends.",
    ),
    Limit(
        "sockets",
        64,
        Scope.ACCOUNT,
        "Open WebSockets and waiting requests.",
        header="sockets",
        refusal="Your account can have at most {limit} open WebSockets and waiting requests. Close "
        "one, then try again.",
    ),
)

LIMITS: Mapping[str, Limit] = {limit.name: limit for limit in TABLE}


def positive_limits(changed: dict[str, int]) -> dict[str, int]:
    """Return changes of limits, or raise ValueError if one is less than 1."""
    for name, value in changed.items():
        if value < 1:
            raise ValueError(f"the limit {name} is {value}; it must be at least 1")
    return changed
