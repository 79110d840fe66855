"""The most expensive uploads get a verdict and do not block others."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from domain.datasets.dataset import DatasetStatus, Uncountable
from infrastructure import limited_process
from infrastructure.artifacts import Artifacts
from infrastructure.backoff import MAX_PAUSE
from infrastructure.limited_process import Exceeded, Limits
from services.datasets import validating as validating_module
from services.datasets import validation
from services.datasets.report import STOPPED, Code, Problem
from services.datasets.validating import MOST_FAILURES
from tests.builders.commands import FixedClock
from tests.polling import TIMEOUT_SECONDS
from tests.services.datasets.running_service import (
    VALID,
    Service,
    home,
)
from tests.services.datasets.uploads import ANSWER, ASSISTANT, CALL, USER, chat, jsonl, validated

MANY_KEYS = jsonl(chat(USER, ASSISTANT) | {f"key{n}": n for n in range(30_000)})
CALLS = [CALL | {"id": f"c{n}"} for n in range(20_000)]
MANY_CALLS = jsonl(
    chat(
        USER,
        {"role": "assistant", "tool_calls": CALLS},
        *(ANSWER | {"tool_call_id": call["id"]} for call in CALLS),
        ASSISTANT,
    )
)
MANY_OBJECTS = b'{"messages": [' + b",".join([b'{"":0}'] * 300_000) + b"]}\n"
LOOPING = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GROWING = "{% for a in range(99999) %}{{ '%1000000s' | format('x') }}{% endfor %}"


@pytest.mark.parametrize("content", [MANY_KEYS, MANY_CALLS], ids=["keys", "calls"])
def test_many_keys_and_many_calls_are_read_in_time(service: Service, content: bytes) -> None:
    """A quadratic comparison took more than a minute for each."""
    dataset_id = service.upload(content)
    service.catch_up()
    assert service.dataset(dataset_id).status is DatasetStatus.READY_FOR_TRAINING


def test_a_slow_line_is_refused_and_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "LINE_CPU_SECONDS", 0.01)
    # A callback of the garbage collector may swallow one signal of the limit.
    monkeypatch.setattr(limited_process, "REPEAT_SECONDS", 0.01)
    report, _, _ = validated(MANY_OBJECTS + VALID, max_bytes=10**8, max_line_bytes=10**8)
    assert [(error.line, error.code) for error in report.errors] == [(1, Code.TOO_COMPLEX)]
    assert report.examples == 2


def test_too_many_lines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "MOST_LINES", 100)
    report, _, _ = validated(b"\n" * 1000)
    assert [error.code for error in report.errors] == [Code.TOO_MANY_LINES]


def rejected(service: Service, content: bytes, limits: Limits) -> Problem:
    """Validate a file with these limits. Returns its only error."""
    dataset_id = service.upload(content)
    service.project()
    validating, _ = service.limited(limits)
    validating.validate_waiting()
    assert validating.work.finish(TIMEOUT_SECONDS)
    assert service.dataset(dataset_id).status is DatasetStatus.REJECTED
    (error,) = service.report(dataset_id).errors
    return error


def test_a_validation_that_reaches_its_time_limit_rejects_the_file(service: Service) -> None:
    limits = Limits(cpu_seconds=1, wall_seconds=600, memory_mib=1024)
    error = rejected(service, b"\n" * 19_000_000, limits)
    assert (error.line, error.code) == (None, Code.NOT_READABLE)
    assert STOPPED[Exceeded.TIME] in error.message


def test_a_line_that_needs_too_much_memory_rejects_the_file(service: Service) -> None:
    limits = Limits(cpu_seconds=60, wall_seconds=600, memory_mib=-400)
    error = rejected(service, VALID + MANY_OBJECTS, limits)
    assert error.code in {Code.TOO_COMPLEX, Code.NOT_READABLE}
    assert "memory" in error.message


def test_a_failing_validation_is_retried_then_rejected(service: Service, clock: FixedClock) -> None:
    failing = Limits(cpu_seconds=60, wall_seconds=0, memory_mib=1024)
    dataset_id = service.upload(VALID)
    validating, _ = service.limited(failing)
    service.project()
    for tried in range(1, MOST_FAILURES + 1):
        for _ in range(3):  # nothing is tried before its time
            validating.validate_waiting()
            assert validating.work.finish(TIMEOUT_SECONDS)
        is_over = tried == MOST_FAILURES
        assert service.dataset(dataset_id).status is (
            DatasetStatus.REJECTED if is_over else DatasetStatus.VALIDATING
        )
        clock.time += MAX_PAUSE


def test_a_dataset_deleted_while_it_is_validated_leaves_no_file(
    artifacts: Artifacts, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = validating_module.run

    def delete_meanwhile(*arguments: object) -> object:
        result = run(*arguments)  # type: ignore[arg-type]
        service.delete(dataset_id)
        service.consumer.catch_up()
        return result

    monkeypatch.setattr(validating_module, "run", delete_meanwhile)
    dataset_id = service.upload(VALID)
    service.catch_up()
    assert service.dataset(dataset_id).status is DatasetStatus.DELETED
    assert artifacts.list(home(dataset_id)) == []


@pytest.mark.parametrize(
    ("template", "reason"),
    [(LOOPING, Uncountable.TIME), (GROWING, Uncountable.MEMORY)],
    ids=["loops", "grows"],
)
def test_an_endless_template_does_not_block_others(
    service: Service, tmp_path: Path, template: str, reason: Uncountable
) -> None:
    endless = service.import_base(tmp_path / "a", "a-endless", template)
    service.import_base(tmp_path / "tiny")
    first = service.upload(VALID)
    second = service.upload(VALID, uuid4())
    service.catch_up()
    _, counting = service.limited(Limits(cpu_seconds=2, wall_seconds=600, memory_mib=512))
    service.count(counting)
    for each in (first, second):
        found = service.dataset(each)
        assert set(found.counted) == {"tiny"}
        assert found.uncountable[endless.name].reason is reason


def test_a_small_upload_does_not_wait_for_another_account(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upload order counts within an account only."""
    run, order = validating_module.run, list[str]()

    def note(module: str, request: dict[str, str], *others: object) -> object:
        order.append(request["upload"])
        return run(module, request, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(validating_module, "run", note)
    many = [service.upload(VALID) for _ in range(3)]
    (small,) = [service.upload(VALID, uuid4())]
    service.catch_up()
    assert [str(small) in each for each in order].index(True) <= 1
    assert len(order) == len(many) + 1
