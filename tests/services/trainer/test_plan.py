"""The order of the data and the schedule."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.estimating.batching import padded
from domain.estimating.held_out import held_out, validated
from domain.training.hyperparameters import Hyperparameters
from services.trainer.plan import Plan


def plan(count: int = 50, **fields: int) -> Plan:
    values = {"epochs": 3, "micro_batch_size": 2, "gradient_accumulation": 3, "seed": 7} | fields
    return Plan(lengths=tuple((n * 37) % 101 + 1 for n in range(count)), **values)


SMALL = st.integers(1, 5)


@given(
    count=st.integers(1, 120), size=st.integers(1, 9), times=SMALL, seed=st.integers(0), ranks=SMALL
)
def test_an_epoch_sees_every_example_once(
    count: int, size: int, times: int, seed: int, ranks: int
) -> None:
    p = plan(count, micro_batch_size=size, gradient_accumulation=times, seed=seed, ranks=ranks)
    for epoch in range(2):
        first = epoch * p.steps_per_epoch
        steps = [p.micro_batches(first + n) for n in range(p.steps_per_epoch)]
        assert sorted(i for step in steps for batch in step for i in batch) == list(range(count))
        assert all(1 <= len(step) <= times * ranks for step in steps)
        assert all(1 <= len(batch) <= size for step in steps for batch in step)


def test_ranks_share_the_steps_of_one_rank() -> None:
    alone, shared = plan(gradient_accumulation=6), plan(ranks=2)
    assert shared.total_steps == alone.total_steps == 3 * 5
    for number in range(alone.total_steps):
        theirs = shared.micro_batches(number, among=2)
        assert sorted(theirs) == sorted(alone.micro_batches(number))
        assert shared.micro_batches(number) == alone.micro_batches(number)
        sizes = [len(batch) * max(shared.lengths[index] for index in batch) for batch in theirs]
        assert sizes == sorted(sizes, reverse=True)  # assigned in turn, so the work is balanced


@given(size=st.integers(1, 9), ranks=st.integers(1, 3))
def test_a_split_divides_micro_batches_without_moving_examples(size: int, ranks: int) -> None:
    whole = plan(micro_batch_size=size, ranks=ranks)
    halves = plan(micro_batch_size=size, ranks=ranks, split=2)
    assert halves.total_steps == whole.total_steps
    for number in range(whole.total_steps):
        theirs, ours = halves.micro_batches(number), whole.micro_batches(number)
        assert [i for batch in theirs for i in batch] == [i for batch in ours for i in batch]
        assert all(len(batch) <= halves.largest_micro_batch for batch in theirs)
        assert len(theirs) == sum(min(2, len(batch)) for batch in ours)


def test_the_plan_is_a_function_of_seed_and_epoch() -> None:
    steps = [plan().micro_batches(n) for n in range(plan().total_steps)]
    assert steps == [plan().micro_batches(n) for n in range(plan().total_steps)]
    assert steps[0] != plan(seed=8).micro_batches(0)
    assert steps[: plan().steps_per_epoch] != steps[plan().steps_per_epoch :][:9]


def test_micro_batches_hold_examples_of_similar_length() -> None:
    p = plan(200, micro_batch_size=4)
    padded = sum(
        len(batch) * max(p.lengths[i] for i in batch)
        for n in range(p.steps_per_epoch)
        for batch in p.micro_batches(n)
    )
    assert padded < 1.15 * sum(p.lengths)


@pytest.mark.parametrize(("count", "size"), [(2, 1), (20, 1), (200, 10), (5000, 64)])
def test_the_held_out_split_is_a_bounded_share(count: int, size: int) -> None:
    indices = held_out(count, seed=42)
    assert len(indices) == size
    assert indices == held_out(count, seed=42)
    assert max(indices) < count


def test_a_long_validation_file_is_sampled_by_the_seed() -> None:
    assert validated(3, seed=1) == [0, 1, 2]
    chosen = validated(1000, seed=1)
    assert (len(set(chosen)), chosen) == (256, sorted(chosen))
    assert chosen == validated(1000, seed=1) != validated(1000, seed=2)


def rates(p: Plan, **fields: Any) -> list[float]:
    chosen = Hyperparameters(learning_rate=1.0, **fields)
    return [p.learning_rate(n, chosen) for n in range(p.total_steps)]


def test_the_learning_rate_warms_up_and_falls_as_a_cosine() -> None:
    found = rates(plan(600, epochs=1))
    assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert found[3:] == sorted(found[3:], reverse=True)
    assert found[3] == 1.0
    assert found[51] == pytest.approx(0.5, abs=0.02)
    assert 0 < found[-1] < 0.001


def test_a_linear_schedule_falls_evenly_after_the_warm_up() -> None:
    found = rates(plan(600, epochs=1), schedule="linear", warmup_share=0.2)
    warm_up = math.ceil(0.2 * len(found))
    assert found[:warm_up] == pytest.approx([(n + 1) / warm_up for n in range(warm_up)])
    falls = [before - after for before, after in pairwise(found[warm_up:])]
    assert falls == pytest.approx([1 / (len(found) - warm_up)] * len(falls))
    assert found[-1] == pytest.approx(falls[0])


def test_a_constant_schedule_stays_at_the_peak_with_or_without_a_warm_up() -> None:
    total = plan(600, epochs=1).total_steps
    assert rates(plan(600, epochs=1), schedule="constant", warmup_share=0.2) == [1.0] * total
    found = rates(plan(600, epochs=1), schedule="constant_with_warmup", warmup_share=0.2)
    warm_up = math.ceil(0.2 * total)
    assert found[:warm_up] == pytest.approx([(n + 1) / warm_up for n in range(warm_up)])
    assert found[warm_up:] == [1.0] * (total - warm_up)


def test_without_a_warm_up_the_first_step_is_at_the_peak() -> None:
    assert rates(plan(), warmup_share=0.0)[0] == 1.0


def indices(batches: list[list[int]]) -> list[int]:
    return sorted(index for batch in batches for index in batch)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 2))
def test_every_rank_has_its_part_of_a_step(among: int, size: int, split: int):
    plan = Plan(tuple(range(10, 50)), 1, size, 3, seed=7, ranks=2, split=split)
    most = size * padded(49) // split
    for step in range(plan.total_steps):
        work = plan.work(step, among)
        batches = [batch for mine in work for batch in mine]
        dealt = plan.micro_batches(step, among)
        assert indices(batches) == indices(dealt)
        for mine, share in zip(work, (dealt[rank::among] for rank in range(among)), strict=True):
            assert indices(mine) == indices(share)
        for batch in batches:
            tokens = len(batch) * padded(max(plan.lengths[index] for index in batch))
            assert len(batch) == 1 or tokens <= most


@pytest.mark.parametrize(
    ("memory", "sizes"),
    [({}, [2, 2, 2, 2]), ({"batch_tokens": 320}, [8]), ({"batch_tokens": 320, "split": 2}, [4, 4])],
)
def test_batches_grow_to_the_memory(memory: dict[str, int], sizes: list[int]) -> None:
    plan = Plan((40,) * 16, 1, 2, 4, seed=7, **memory)
    assert [len(batch) for batch in plan.work(0)[0]] == sizes


@pytest.mark.parametrize(("split", "most"), [(1, 8), (2, 4)])
def test_a_split_halves_the_tokens_of_a_batch(split: int, most: int) -> None:
    plan = Plan((64, *[8] * 31), 1, 1, 32, seed=7, split=split)
    batches = [batch for mine in plan.work(0) for batch in mine]
    assert indices(batches) == list(range(32))
    assert max(map(len, batches)) == most
