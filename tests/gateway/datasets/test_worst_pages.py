"""Pages of the worst files load, and the gateway serves other clients meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psutil
import pytest

from domain.core.aggregate import because
from domain.datasets.dataset import Dataset
from infrastructure.artifacts import Artifacts
from services.datasets.validation import validate
from tests.builders.platform import Person, Platform
from tests.gateway.conftest import MEBIBYTE, Gateway
from tests.gateway.datasets.dataset_page import import_base
from tests.polling import eventually

USER = {"role": "user", "content": "Where is my order?"}
ASSISTANT = {"role": "assistant", "content": "On its way."}
CALL = {"id": "a", "type": "function", "function": {"name": "look", "arguments": {}}}

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GROWING = "{% for a in range(99999) %}{{ '%1000000s' | format('x') }}{% endfor %}"

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


def stored(platform: Platform, person: Person, content: bytes) -> UUID:
    """Store a dataset as the dataset service does."""
    dataset_id, artifacts = uuid4(), Artifacts(platform.settings.artifacts)
    home, kept = f"datasets/{dataset_id}", bytearray()
    report = validate([content], kept.extend, on_progress=id, max_bytes=10**9)
    artifacts.put(f"{home}/report.json", report.model_dump_json().encode())
    artifacts.put(f"{home}/examples.jsonl", bytes(kept))
    with because(platform.cause):
        dataset = Dataset.uploaded(dataset_id, person.account_id, "uploads/x", "00", len(content))
        if report.sha256 is None:
            dataset.reject(report.error_count, f"{home}/report.json")
        else:
            dataset.validate(
                f"{home}/examples.jsonl",
                report.sha256,
                report.examples,
                report.duplicates,
                f"{home}/report.json",
            )
        platform.log.commit(dataset)
    return dataset_id


def opened(client: httpx.Client, dataset_id: UUID, base: str) -> str:
    """Load the page of a dataset, and its examples if it has any."""
    page = client.get(f"/datasets/{dataset_id}").raise_for_status().text
    state = client.get(f"/api/datasets/{dataset_id}").json()["status"]
    if state == "rejected":
        return page
    path = f"/datasets/{dataset_id}/examples"
    return page + client.get(path, params={"base_model": base}).raise_for_status().text


def judged(client: httpx.Client, dataset_id: UUID) -> bool:
    """Return True once the read models have the result of the validation."""
    return client.get(f"/api/datasets/{dataset_id}").json().get("status") != "validating"


class Neighbour:
    """Another account, whose requests must not wait."""

    def __init__(self) -> None:
        self.slowest_seconds = 0.0
        self.requests = 0


@contextmanager
def another_account(url: str, person: Person) -> Iterator[Neighbour]:
    """List the datasets of another account and request the gateway's health repeatedly."""
    neighbour, over = Neighbour(), threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, headers=person.headers, timeout=120) as client:
            while not over.is_set():
                for path in ("/healthz", "/api/datasets"):
                    started = time.monotonic()
                    client.get(path).raise_for_status()
                    neighbour.slowest_seconds = max(
                        neighbour.slowest_seconds, time.monotonic() - started
                    )
                    neighbour.requests += 1
                over.wait(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield neighbour
    finally:
        over.set()
        thread.join()


def peak_bytes(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.full
def test_the_worst_files_are_shown_and_disturb_no_other_account(
    gateway: Gateway,
    platform: Platform,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    owner, other = platform.person(), platform.person()
    base = import_base(platform, tmp_path / "tiny")
    for name, template in (("endless", ENDLESS), ("growing", GROWING)):
        import_base(platform, tmp_path / name, template, name)
    datasets = {name: stored(platform, owner, make().encode()) for name, make in WORST.items()}
    figures: dict[str, str] = {}
    with httpx.Client(base_url=gateway.url, headers=owner.headers, timeout=600) as client:
        eventually(lambda: all(judged(client, each) for each in datasets.values()))
        small = stored(platform, owner, chat(USER, ASSISTANT).encode())
        eventually(lambda: judged(client, small))
        opened(client, small, base.name)  # the first call of a route takes longer
        with another_account(gateway.url, other):
            pass
        before = gateway.process.memory_info().rss
        for name, dataset_id in datasets.items():
            for model in (base.name, "endless", "growing") if name == "6 MB of words" else ("",):
                with another_account(gateway.url, other) as neighbour:
                    page = opened(client, dataset_id, model or base.name)
                assert len(page) < PAGE_BYTES
                figures[f"{name} {model}"] = f"{1000 * neighbour.slowest_seconds:.0f} ms"
        used = peak_bytes(gateway.process) - before
    told = ", ".join(f"{name} {figure}" for name, figure in figures.items())
    record_property(
        "measured",
        f"slowest request of another account while the worst files are open: {told}; the gateway "
        f"took {used // MEBIBYTE} MiB more",
    )
    assert used < GATEWAY_BYTES


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
    gateway: Gateway, platform: Platform, tmp_path: Path, name: str, note: str
) -> None:
    owner = platform.person()
    template = {"endless": ENDLESS, "growing": GROWING}.get(name)
    if template is None:
        base = import_base(platform, tmp_path / "tiny")
        content = WORST[name]()
    else:
        base, content = import_base(platform, tmp_path / name, template), chat(USER, ASSISTANT)
    dataset_id = stored(platform, owner, content.encode())
    with httpx.Client(base_url=gateway.url, headers=owner.headers, timeout=600) as client:
        eventually(lambda: judged(client, dataset_id))
        assert note in opened(client, dataset_id, base.name)
