"""Rules of aggregates as scenarios: given an aggregate, when something happens, then these events.

A test builds the aggregate (`running(saves(10))`) and compares the events that the next steps
trigger with the expected ones: `when(given, Job.pause) == [fact("PauseRequested", reason=OWNER)]`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from domain.billing.account import Account
from domain.core.aggregate import Aggregate, Cause, Event, because
from domain.jobs.failures import FailureClass
from domain.jobs.job import Job
from domain.jobs.lifecycle import PauseReason, SegmentEnd
from tests.builders.commands import NOW
from tests.builders.examples import (
    ACCOUNT_ID,
    ESTIMATE,
    JOB_ID,
    PLAN,
    RETENTION,
    STATE,
    ending,
    evaluation_result,
    saved_checkpoint,
)

A = TypeVar("A", bound=Aggregate)
Step = Callable[[Job], object]
AccountStep = Callable[[Account], object]


class fact:
    """An expected event: its topic, and the fields that matter to the test."""

    def __init__(self, topic: str, **fields: object) -> None:
        self.topic, self.fields = topic, fields

    def __eq__(self, event: object) -> bool:
        return (
            isinstance(event, Event)
            and self.topic == event.TOPIC
            and all(getattr(event, name) == value for name, value in self.fields.items())
        )

    def __repr__(self) -> str:
        return f"{self.topic}({', '.join(f'{n}={v!r}' for n, v in self.fields.items())})"


def when(given: A, *steps: Callable[[A], object]) -> list[Event]:
    """Return the events that some steps trigger."""
    given.collect_events()
    for step in steps:
        step(given)
    return list(given.collect_events())  # type: ignore[arg-type]


def topics(events: list[Event]) -> list[str]:
    """Return the topics of events."""
    return [event.TOPIC for event in events]


def later(seconds: float, step: Callable[[A], object]) -> Callable[[A], object]:
    """Return a step that happens this long after noon."""

    def at_that_time(given: A) -> None:
        with because(Cause("account:test", "later", NOW + timedelta(seconds=seconds))):
            step(given)

    return at_that_time


def after(given: Job, *steps: Step) -> Job:
    """Return a job after some steps, whose events are past."""
    when(given, *steps)
    return given


def job(*steps: Step) -> Job:
    """Return an approved job after some steps."""
    return after(Job.approve(JOB_ID, ACCOUNT_ID, PLAN, ESTIMATE), *steps)


def running(*steps: Step, segment: int = 1) -> Job:
    """Return a job whose segment trains, after the platform stopped those before it."""
    earlier: list[Step] = [allocates, trains(), ends(SegmentEnd.STOPPED, 10)] * (segment - 1)
    return job(*earlier, *RUNNING, *steps)


def paused() -> Job:
    """Return a job that its owner paused at step 10."""
    return job(*PAUSED)


def cancelled() -> Job:
    """Return a job that its owner cancelled at step 10."""
    return job(*CANCELLED)


def allocates(given: Job) -> None:
    """Allocate GPUs to the next segment."""
    given.allocate_segment(given.segment + 1)


def trains(step: int = 0) -> Step:
    """Start the segment's pod, and train from a step."""

    def starts(given: Job) -> None:
        given.start_pod(given.segment, f"pod-{given.segment}", NOW)
        given.start_training(given.segment, step, 30, 100, 5)

    return starts


def saves(step: int, elapsed_seconds: int = 10, eval_loss: float | None = None) -> Step:
    """Save a checkpoint."""

    def saves_it(given: Job) -> None:
        fields: dict[str, Any] = {"state": STATE, "eval_loss": eval_loss}
        given.save_checkpoint(saved_checkpoint(given.segment, step, 1.5, elapsed_seconds, **fields))

    return saves_it


def starts_evaluation(given: Job) -> None:
    """Enter the evaluation after the last step."""
    given.start_evaluation(given.segment, 30)


def evaluates(given: Job) -> None:
    """Save the last step and evaluate it."""
    saves(30, elapsed_seconds=70)(given)
    starts_evaluation(given)
    given.complete_evaluation(given.segment, evaluation_result())


def registers(given: Job) -> None:
    """Register the adapter."""
    given.register(given.segment, "adapter", "a" * 64)


def completes(given: Job) -> None:
    """Evaluate, register and end."""
    evaluates(given)
    registers(given)
    ends(SegmentEnd.COMPLETED, 90)(given)


def ends(
    reason: SegmentEnd,
    elapsed_seconds: int = 0,
    *,
    shortfall: PauseReason | None = None,
    overran: bool = False,
    **fields: Any,
) -> Step:
    """End the running segment."""
    end = ending(reason, elapsed_seconds, **fields)
    return lambda given: given.end_segment(given.segment, end, shortfall=shortfall, overran=overran)


def crashes(
    elapsed_seconds: int = 0, failure: FailureClass = FailureClass.NODE_LOST, **fields: Any
) -> Step:
    """End the running segment with a failure."""
    return ends(SegmentEnd.CRASHED, elapsed_seconds, failure=failure, **fields)


def cancels(given: Job) -> None:
    """Cancel the job."""
    given.cancel(RETENTION)


def resumes(given: Job) -> None:
    """Resume the job at the same price."""
    given.resume(ESTIMATE, PLAN.rate_micros_per_hour, "2", 1)


RUNNING: tuple[Step, ...] = (allocates, trains())
PAUSED = (*RUNNING, saves(10), Job.pause, ends(SegmentEnd.STOPPED, 60))
CANCELLED = (*RUNNING, saves(10), cancels, ends(SegmentEnd.STOPPED, 60))
"""Steps from the approval until a job trains, is paused or is cancelled."""
