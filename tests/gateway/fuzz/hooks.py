"""Schemathesis hooks: most requests have real IDs, callers vary, and responses are counted.

Every choice depends on the request alone, so that a failure is reproducible.
"""

from __future__ import annotations

import atexit
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any
from zlib import crc32

import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response, SerializationContext

SEEDS = json.loads(os.environ["FUZZ_SEEDS"])
"""`keys` of callers, and `ids` of existing objects by parameter, or by path and parameter."""

COUNTS = Path(os.environ["FUZZ_COUNTS"])

SPARED = frozenset({"key_id"})
"""Parameters that always get a seed. Otherwise schemathesis would revoke its own key."""

answered: Counter[str] = Counter()


@schemathesis.serializer("application/jsonl")
def as_it_is(context: SerializationContext, value: Any) -> bytes:
    """Send the body of an upload unchanged."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@schemathesis.check
def no_failure(ctx: CheckContext, response: Response, case: Case) -> None:
    """Fail on a 5xx, except while a model is not loaded or read models are late."""
    if response.status_code == 503 and b"not_serving" in response.content:
        assert response.headers.get("retry-after") == ["5"], "the response has no Retry-After"
    elif response.status_code == 503 and b"not_yet_visible" in response.content:
        assert response.headers.get("retry-after") == ["1"], "the response has no Retry-After"
    else:
        assert response.status_code < 500, f"the server failed: {response.content!r}"


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Use existing IDs in three of four requests, and the operator's key in most."""
    drawn = crc32(repr((case.path, case.path_parameters, case.query, case.body)).encode())
    for part in (case.path_parameters, case.query, case.body):
        if isinstance(part, dict):
            for name in sorted(part):
                known = SEEDS["ids"].get(f"{case.path} {name}") or SEEDS["ids"].get(name)
                drawn = crc32(repr(name).encode(), drawn)
                if known and (drawn % 4 or name in SPARED):
                    part[name] = known[drawn // 4 % len(known)]
    if isinstance(case.query, dict) and isinstance(case.query.get("wait"), int | float):
        case.query["wait"] = min(case.query["wait"], 0.1)
    plain = not case.path_parameters and not case.query and case.method == "GET"
    key = SEEDS["keys"][0 if plain else drawn // 1000 % len(SEEDS["keys"])]
    if key is None:
        case.headers.pop("Authorization", None)
    else:
        case.headers["Authorization"] = f"Bearer {key}"


@schemathesis.hook
def after_call(context: HookContext, case: Case, response: Response) -> None:
    """Count the response."""
    answered[f"{case.method} {case.path} {response.status_code}"] += 1


@atexit.register
def write_counts() -> None:
    """Write the counts for the test that started this process."""
    COUNTS.write_text(json.dumps(answered))
