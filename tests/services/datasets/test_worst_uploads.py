"""The most expensive uploads are validated or rejected within limits."""

from __future__ import annotations

import gc
from uuid import uuid4

import pytest

from domain.datasets.dataset import DatasetStatus
from infrastructure.process.limited_process import Exceeded, Limits
from services.datasets import validation
from services.datasets.report import STOPPED, Code
from tests.services.datasets.conftest import Service
from tests.services.datasets.uploads import (
    ANSWER,
    ASSISTANT,
    CALL,
    CALLING,
    GOOD,
    USER,
    VALID,
    chat,
    jsonl,
    validated,
)

MANY_KEYS = jsonl(GOOD | {f"key{n}": n for n in range(30_000)})
CALLS = [CALL | {"id": f"c{n}"} for n in range(20_000)]
ANSWERS = [ANSWER | {"tool_call_id": call["id"]} for call in CALLS]
MANY_CALLS = jsonl(chat(USER, {"role": "assistant", "tool_calls": CALLS}, *ANSWERS, ASSISTANT))
MANY_OBJECTS = b'{"messages": [' + b",".join([b'{"":0}'] * 300_000) + b"]}\n"


@pytest.mark.full
@pytest.mark.parametrize("content", [MANY_KEYS, MANY_CALLS], ids=["keys", "calls"])
def test_many_keys_and_many_calls_are_read_in_time(service: Service, content: bytes) -> None:
    """A quadratic comparison took more than a minute for each."""
    dataset_id = service.upload(content)
    service.validate()
    assert service.dataset(dataset_id).status is DatasetStatus.READY_FOR_TRAINING


def test_a_slow_line_is_refused_and_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "LINE_CPU_SECONDS", 0.01)
    gc.disable()  # pytest would report the limit's exception if a finalizer or callback raised it
    try:
        report, _, _ = validated(MANY_OBJECTS + VALID, max_bytes=10**8, max_line_bytes=10**8)
    finally:
        gc.enable()
    assert [(error.line, error.code) for error in report.errors] == [(1, Code.TOO_COMPLEX)]
    assert report.examples == 2


def test_too_many_lines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "MOST_LINES", 100)
    report, _, _ = validated(b"\n" * 1000)
    assert [error.code for error in report.errors] == [Code.TOO_MANY_LINES]


@pytest.mark.parametrize(
    ("limits", "content", "message"),
    [
        ({"cpu_seconds": 1, "memory_mib": 1024}, b"\n" * 19_000_000, STOPPED[Exceeded.TIME]),
        ({"cpu_seconds": 60, "memory_mib": -400}, VALID + MANY_OBJECTS, "memory"),
    ],
    ids=["time", "memory"],
)
def test_a_validation_that_reaches_a_limit_rejects_the_file(
    service: Service, limits: dict[str, int], content: bytes, message: str
) -> None:
    dataset_id = service.upload(content)
    service.limit(Limits(wall_seconds=600, **limits))
    service.validate()
    assert service.dataset(dataset_id).status is DatasetStatus.REJECTED
    (error,) = service.report(dataset_id).errors
    assert error.code in {Code.TOO_COMPLEX, Code.NOT_READABLE}
    assert message in error.message


@pytest.mark.full
def test_a_schema_with_doubling_references_rejects_only_its_own_dataset(service: Service) -> None:
    """The library checks 2^60 references. It does not return to the interpreter in between."""
    levels = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n - 1}"}] * 2} for n in range(1, 60)}
    parameters = {"$defs": {"a0": {"type": "string"}} | levels, "$ref": "#/$defs/a59"}
    tools = [{"type": "function", "function": {"name": "look", "parameters": parameters}}]
    slow = service.upload(jsonl(chat(USER, CALLING, ANSWER, ASSISTANT) | {"tools": tools}))
    later, other = service.upload(), service.upload(account_id=uuid4())
    service.limit(Limits(cpu_seconds=5, wall_seconds=600, memory_mib=1024))
    for _ in range(2):  # one dataset of each account at a time
        service.validate()
    service.platform.project()
    assert service.dataset(slow).status is DatasetStatus.REJECTED
    (error,) = service.report(slow).errors
    assert error.code == Code.NOT_READABLE
    assert STOPPED[Exceeded.TIME] in error.message
    for dataset_id in (later, other):
        assert service.dataset(dataset_id).status is DatasetStatus.READY_FOR_TRAINING
