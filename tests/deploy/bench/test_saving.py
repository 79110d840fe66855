"""What a run's checkpoints cost it, by the times that it told."""

from __future__ import annotations

import pytest

from deploy.bench.saving import verdicts
from deploy.bench.trainer_runs import SAMPLED, Saved, Saving

RUN = Saving(
    times=(10.0, 11.0, 12.6, 13.6, 15.3, 16.5, 17.5, 18.5),
    saves=(Saved(2, 0.1, 0.4), Saved(4, 0.2, 2.0)),
    sampled=0.05,
)


def test_steps_beside_a_save_are_those_that_begin_before_it_is_durable_less_its_wait() -> None:
    """The second save takes until the end of the second step after it."""
    assert RUN.steps == (
        [pytest.approx(1.5), pytest.approx(1.5), pytest.approx(1.2)],
        [pytest.approx(1.0)] * 4,
    )


def test_the_cost_is_all_that_training_loses_and_not_its_waits_alone() -> None:
    assert RUN.wall == pytest.approx(8.5)
    assert RUN.waited == pytest.approx(0.35)
    assert RUN.share == pytest.approx((0.35 + 3 * (1.5 - 1.0)) / 8.5)


def test_a_step_that_is_slower_beside_a_save_misses_the_aim_without_any_wait() -> None:
    ends = [0.0]
    for number in range(1, 40):
        ends.append(ends[-1] + (1.2 if number % 10 == 0 else 1.0))
    saves = tuple(Saved(step, 0.0, 0.5) for step in (10, 20, 30))
    run = Saving(tuple(ends), saves, 0.0)
    assert run.share == pytest.approx(0.6 / 39.6)
    (verdict,) = verdicts({4: [run]})
    assert str(verdict) == "4 chats a step: 1.52% (aim 1%: missed)"


def test_each_size_of_step_has_a_verdict_of_its_own() -> None:
    even = tuple(float(second) for second in range(40))
    unhurt = Saving(even, (Saved(10, 0.01, 0.1),), 0.0)
    assert [each.met for each in verdicts({16: [unhurt], 4: [RUN]})] == [True, False]


def test_the_log_tells_of_saves_and_samples() -> None:
    log = (
        "DEBUG the fixed prompt is answered in 0.25 s\n"
        "DEBUG saved step 10: training waited 0.004 s, durable after 0.120 s\n"
    )
    assert Saved.found(log) == [(10, 0.004, 0.12)]
    assert SAMPLED.findall(log) == ["0.25"]
