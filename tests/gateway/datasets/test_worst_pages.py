"""Pages of the worst files load, and the gateway serves other clients meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.builders.platform import Person, Platform
from tests.gateway.conftest import MEBIBYTE, Gateway
from tests.gateway.datasets.conftest import ASSISTANT, SHORT, USER
from tests.polling import eventually
from tests.process_memory import peak_bytes, reset_peak
from tests.services.datasets.uploads import GROWING, LOOPING

CALL = {"id": "a", "type": "function", "function": {"name": "look", "arguments": {}}}
TEMPLATES = {"endless": LOOPING, "growing": GROWING}
PAGE_BYTES = 2 * MEBIBYTE
GATEWAY_BYTES = 100 * MEBIBYTE


def chat(*messages: Any, **more: Any) -> str:
    return json.dumps({"messages": messages, **more}, ensure_ascii=False)


def said(text: str) -> str:
    return chat({**USER, "content": text}, ASSISTANT)


def calling(*calls: Any) -> str:
    return chat(USER, {"role": "assistant", "tool_calls": calls})


WORST: dict[str, Callable[[], str]] = {
    "6 MB of words": lambda: said("word é " * 750_000),
    "one word of 8 MB": lambda: said("x" * 8_000_000),
    "5 lines of 8 MB": lambda: "\n".join(said(f"{n}" * 7_900_000) for n in range(5)),
    "100,000 messages": lambda: chat(*[USER, ASSISTANT] * 50_000),
    "100,000 keys": lambda: chat(USER, ASSISTANT, **{f"key {n}": n for n in range(100_000)}),
    "a name of 7 MB": lambda: chat({**USER, "name": "n" * 7_000_000}, ASSISTANT),
    "an argument of 7 MB": lambda: calling(
        CALL | {"function": {"name": "look", "arguments": {"at": "a" * 7_000_000}}}
    ),
    "50,000 calls": lambda: calling(*(CALL | {"id": f"c{n}"} for n in range(50_000))),
    "2 million blank lines": lambda: "\n" * 2_000_000 + chat(USER, ASSISTANT),
    "100 long bad lines": lambda: "\n".join(['{"messages": ' + "[" * 300_000] * 100),
    "deep nesting": lambda: "[" * 8_000_000,
    "null characters and surrogates": lambda: json.dumps("\0" * 500_000 + "\ud800"),
}


@contextmanager
def requesting(gateway: Gateway, person: Person) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers=person.headers, timeout=600) as client:
        yield client


def validated(platform: Platform, client: httpx.Client, person: Person, content: str) -> UUID:
    """Validate a file, and wait until the read models have the result."""
    dataset_id = platform.upload(person.account_id, content.encode())
    platform.validate_upload(dataset_id)
    path = f"/api/datasets/{dataset_id}"
    eventually(lambda: client.get(path).json().get("status", "validating") != "validating")
    return dataset_id


def opened(client: httpx.Client, dataset_id: UUID, base: str) -> str:
    """Load the page of a dataset, and its examples if it has any."""
    page = client.get(f"/datasets/{dataset_id}").raise_for_status().text
    if client.get(f"/api/datasets/{dataset_id}").json()["status"] == "rejected":
        return page
    path = f"/datasets/{dataset_id}/examples"
    return page + client.get(path, params={"base_model": base}).raise_for_status().text


@contextmanager
def another_account(gateway: Gateway, person: Person) -> Iterator[list[float]]:
    """Send requests of another account repeatedly. Yield their durations in seconds."""
    durations, over = [0.0], threading.Event()

    def ask() -> None:
        with requesting(gateway, person) as client:
            while not over.wait(0.01):
                for path in ("/healthz", "/api/datasets"):
                    started = time.monotonic()
                    client.get(path).raise_for_status()
                    durations.append(time.monotonic() - started)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield durations
    finally:
        over.set()
        thread.join()


@pytest.mark.full
def test_the_worst_files_are_shown_and_disturb_no_other_account(
    gateway: Gateway, platform: Platform, record_property: Callable[[str, object], None]
) -> None:
    owner, other = platform.person(), platform.person()
    platform.store_base()
    for name, template in TEMPLATES.items():
        platform.store_base(name, template)
    figures: list[str] = []
    with requesting(gateway, owner) as client:
        datasets = {
            name: validated(platform, client, owner, make()) for name, make in WORST.items()
        }
        small = validated(platform, client, owner, json.dumps(SHORT))
        opened(client, small, "tiny")  # the first call of a route takes longer
        before = reset_peak(gateway.process)
        for name, dataset_id in datasets.items():
            for base in ("tiny", *TEMPLATES) if name == "6 MB of words" else ("tiny",):
                with another_account(gateway, other) as durations:
                    page = opened(client, dataset_id, base)
                assert len(page) < PAGE_BYTES
                figures.append(f"{name} ({base}) {1000 * max(durations):.0f} ms")
        used = peak_bytes(gateway.process) - before
    record_property(
        "measured",
        f"slowest request of another account while the worst files are open: {', '.join(figures)}; "
        f"the gateway took {used // MEBIBYTE} MiB more",
    )
    assert used < GATEWAY_BYTES


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("6 MB of words", "data-left-out"),
        ("100,000 messages", "data-left-out"),
        ("an argument of 7 MB", "data-left-out"),
        ("endless", "data-problem"),
        ("growing", "data-problem"),
    ],
)
def test_missing_content_has_a_note(
    gateway: Gateway, platform: Platform, name: str, note: str
) -> None:
    owner, content = platform.person(), WORST[name]() if name in WORST else json.dumps(SHORT)
    if name in TEMPLATES:
        platform.store_base(template=TEMPLATES[name])
    else:
        platform.store_base()
    with requesting(gateway, owner) as client:
        dataset_id = validated(platform, client, owner, content)
        assert note in opened(client, dataset_id, "tiny")
