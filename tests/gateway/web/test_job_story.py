"""A job's events in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from domain.core.aggregate import Cause
from domain.jobs.job import Job, SegmentEnd
from domain.training.checkpoint import ModeDifference, RejectionReason
from gateway.jobs.pages.story import Entry
from tests.command_context import command
from tests.domain.examples import STATE, running, save_checkpoint

CODE = ModeDifference(setting="code", saved="0.1.0 (ab12)", now="0.2.0 (no revision)")
THREADS = ModeDifference(setting="threads", saved="2", now="1")
RANKS = ModeDifference(setting="ranks", saved="2", now="1")


def told(event: Any) -> tuple[str, str]:
    """The text of a job's event and its tone."""
    entry = Entry.of(SimpleNamespace(event=event, deployment=None, sequence=1), None)  # type: ignore[arg-type]
    return entry.text, entry.tone


@pytest.fixture(autouse=True)
def cause() -> Iterator[Cause]:
    """Every command of a test has this cause."""
    with command() as cause:
        yield cause


@pytest.fixture
def given() -> Job:
    """A job whose first segment crashed after two checkpoints, and whose second one runs."""
    given = running()
    for step in (10, 20):
        save_checkpoint(given, 1, step)
    given.end_segment(1, SegmentEnd.CRASHED, 100)
    given.allocate_segment(2)
    given.collect_events()
    return given


def resumed(
    given: Job, unchecked: tuple[str, ...], differences: tuple[ModeDifference, ...]
) -> Job.Event:
    given.certify_resume(2, 10, "checkpoints/1/10", STATE, unchecked, 1, differences)
    (event,) = given.collect_events()
    assert isinstance(event, Job.Event)
    return event


@pytest.mark.parametrize(
    ("unchecked", "differences", "text", "tone"),
    [
        ((), (), "Resumed from step 10, with the state that was saved.", "good"),
        (
            (),
            (THREADS,),
            "Resumed from step 10, with the state that was saved. It is computed otherwise than "
            "before (threads), so that the last digits of losses may differ.",
            "warn",
        ),
        (
            (),
            (CODE, THREADS),
            "Resumed from step 10, with the state that was saved. It is computed otherwise than "
            "before (EcoLink's version, threads), so that the last digits of losses may differ.",
            "warn",
        ),
        (
            ("random",),
            (RANKS,),
            "Resumed from step 10. Not compared with what was saved: random states. It is computed "
            "otherwise than before (ranks), so that the last digits of losses may differ.",
            "warn",
        ),
    ],
)
def test_a_resume_says_what_is_not_as_it_was(
    given: Job,
    unchecked: tuple[str, ...],
    differences: tuple[ModeDifference, ...],
    text: str,
    tone: str,
) -> None:
    assert told(resumed(given, unchecked, differences)) == (text, tone)


def test_a_rejection_tells_of_a_credit_only_where_there_is_one(given: Job) -> None:
    """A later checkpoint holds the work of an earlier one."""
    for step in (10, 20):
        given.reject_checkpoint(2, f"checkpoints/1/{step}", RejectionReason.CORRUPT)
    earlier, last = given.collect_events()
    assert told(earlier) == ("The checkpoint of step 10 could not be used (corrupt).", "warn")
    assert told(last) == (
        "The checkpoint of step 20 could not be used (corrupt); the lost time is credited.",
        "warn",
    )
