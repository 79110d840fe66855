"""Given a synthesis, when a command, then events or an error."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from domain.billing.token_rates import FREE, TokenRates, TokenUsage
from domain.core.errors import Invalid, WrongState
from extensions.synthesis.domain.plan import Generator, SourceKind, SynthesisPlan
from extensions.synthesis.domain.price import CostRange
from extensions.synthesis.domain.synthesis import (
    Counts,
    StopReason,
    StoredFile,
    Synthesis,
    SynthesisFailure,
    SynthesisStatus,
)
from tests.builders.examples import ACCOUNT_ID, DATASET_ID
from tests.builders.scenario import topics, when

SYNTHESIS_ID = UUID(int=77)
RATES = TokenRates(prompt_micros=100_000, completion_micros=400_000)
FILE = StoredFile(ref="syntheses/x", sha256="f" * 64)
PLAN = SynthesisPlan(
    request_ref="uploads/x",
    request_sha256="r" * 64,
    sources=(SourceKind.INSTRUCTIONS,),
    seed_dataset_id=None,
    seed_dataset_sha256=None,
    examples=10,
    turns=1,
    personas=True,
    generator=Generator(deployment_id=UUID(int=1), endpoint_id=None, model="tiny"),
    judged=True,
    least_score=6,
    answer_tokens=200,
    attempts=2,
    temperature=0.9,
    top_p=0.95,
    seed=1,
    similarity=0.7,
    rates=RATES,
)


def approved(plan: SynthesisPlan = PLAN) -> Synthesis:
    made = Synthesis.approve(
        SYNTHESIS_ID, ACCOUNT_ID, plan, CostRange(low_micros=10, high_micros=9_000), 9_000, None
    )
    made.collect_events()
    return made


def after(accepted: int, **others: int) -> Synthesis:
    """Return a run after one batch with these outcomes."""
    given = approved()
    given.start_batch(16, 5_000)
    usage = TokenUsage(prompt_tokens=10_000, completion_tokens=1_000)
    given.complete_batch(Counts(accepted=accepted, **others), usage, FILE)
    given.collect_events()
    return given


def reviewing() -> Synthesis:
    given = after(10)
    given.finish_generation(FILE, FILE)
    given.collect_events()
    return given


def test_batches_are_numbered_and_charged_by_their_tokens() -> None:
    given = after(4, invalid=3, rejected=2, duplicates=1)
    assert (given.batch, given.counts.attempts, given.open_batch) == (1, 10, False)
    assert given.charged_micros == 1_000 + 400
    assert given.left_micros == 9_000 - 1_400
    assert given.wants_attempts
    assert given.start_batch(6, 3_000) == 2


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param({"accepted": 10}, id="enough accepted"),
        pytest.param({"accepted": 1, "invalid": 19}, id="no attempts left"),
    ],
)
def test_the_generation_ends(counts: dict[str, int]) -> None:
    given = after(**counts)
    assert given.needs_work
    assert not given.wants_attempts
    assert topics(when(given, lambda each: each.finish_generation(FILE, FILE))) == [
        "GenerationFinished"
    ]
    assert not given.needs_work


def test_a_pause_lets_the_batch_end_and_a_resume_continues() -> None:
    given = approved()
    given.start_batch(16, 5_000)
    given.pause()
    given.pause(StopReason.BALANCE)
    assert (given.pause_reason, given.needs_work) == (StopReason.OWNER, True)
    given.complete_batch(Counts(accepted=3), TokenUsage(), FILE)
    assert not given.needs_work
    assert topics(when(given, Synthesis.resume, Synthesis.resume)) == ["SynthesisResumed"]
    assert given.status is SynthesisStatus.GENERATING


def test_a_maximum_cost_that_the_charges_use_up_is_refused() -> None:
    given = after(4)
    given.pause()
    for most in (1_399, 1_400):
        with pytest.raises(Invalid):
            given.resume(most)
    given.resume(1_401)
    assert given.left_micros == 1


def test_a_maximum_cost_below_that_of_the_open_batch_is_refused() -> None:
    given = approved()
    given.start_batch(16, 8_000)
    given.pause()
    for most in (1, 7_999):
        with pytest.raises(Invalid, match="Enter at least") as refused:
            given.resume(most)
        assert refused.value.field == "max_cost"
    given.resume(8_000)
    usage = TokenUsage(prompt_tokens=80_000, completion_tokens=0)
    given.complete_batch(Counts(accepted=3), usage, FILE)
    assert given.charged_micros == given.max_cost_micros == 8_000


def test_a_run_without_further_charges_resumes_at_its_maximum_cost() -> None:
    complete = after(PLAN.examples)
    complete.pause()
    complete.resume(complete.charged_micros)
    free = approved(PLAN.model_copy(update={"rates": FREE}))
    free.pause()
    free.resume(0)
    assert free.status is complete.status is SynthesisStatus.GENERATING


def test_stopping_needs_two_examples_and_leads_to_the_review() -> None:
    with pytest.raises(WrongState):
        after(1).stop()
    given = after(2)
    given.pause()
    assert topics(when(given, Synthesis.stop)) == ["GenerationStopped"]
    assert not given.wants_attempts
    given.finish_generation(FILE, FILE)
    with pytest.raises(WrongState):
        given.stop()


def test_a_review_ends_with_the_dataset_once() -> None:
    given = reviewing()
    (created,) = when(given, *[lambda each: each.create_dataset(DATASET_ID, "d" * 64, 1, 2)] * 2)
    assert (created.examples, created.dataset_id) == (8, DATASET_ID)  # type: ignore[attr-defined]
    assert (created.edited, created.removed) == (1, 2)  # type: ignore[attr-defined]
    assert given.status is SynthesisStatus.READY
    with pytest.raises(WrongState):
        given.create_dataset(SYNTHESIS_ID, "e" * 64, 0, 0)


def test_a_dataset_needs_two_examples() -> None:
    given = reviewing()
    with pytest.raises(WrongState):
        given.create_dataset(DATASET_ID, "d" * 64, 0, 9)
    given.require_finishable(8)


def test_equal_choices_do_not_depend_on_prices_and_deployments() -> None:
    redeployed = PLAN.generator.model_copy(update={"deployment_id": UUID(int=2)})
    later = PLAN.model_copy(
        update={"generator": redeployed, "rates": RATES.model_copy(update={"prompt_micros": 1})}
    )
    assert later.choices == PLAN.choices
    assert PLAN.model_copy(update={"examples": 11}).choices != PLAN.choices


@pytest.mark.parametrize("command", ["pause", "resume", "stop", "cancel"])
def test_a_final_state_stays(command: str) -> None:
    given = approved()
    given.fail(SynthesisFailure.SEED_LOST)
    with pytest.raises(WrongState):
        getattr(given, command)()
    given.fail(SynthesisFailure.SEED_LOST)
    assert len(given.collect_events()) == 1


def test_a_cancelled_run_ends_its_batch() -> None:
    given: Any = approved()
    given.start_batch(16, 5_000)
    given.cancel()
    assert given.needs_work
    given.complete_batch(Counts(accepted=1), TokenUsage(), FILE)
    assert (given.needs_work, given.status) == (False, SynthesisStatus.CANCELLED)
