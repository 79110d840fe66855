"""Estimates and memory of jobs with direct preference optimization (DPO)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from domain.estimating.estimate import Calibration, Estimate, Work, estimate, remaining
from domain.estimating.footprint import Layout
from domain.estimating.memory import decide
from domain.training.hyperparameters import DPO, Hyperparameters
from domain.training.phases import SUPERVISED_PHASES, Phase
from domain.training.token_lengths import LabelTokens, TokenLengths
from domain.training.truncation import Truncation
from tests.builders.shapes import CPU
from tests.builders.tiny_model import TINY_SHAPE

CHATS = TokenLengths.of([40] * 200)
PAIRS = TokenLengths.of([40] * 400)
GPU = CPU
SFT = Work(TINY_SHAPE, CHATS, Hyperparameters(), 40)
PREFERENCES = Work(TINY_SHAPE, PAIRS, Hyperparameters(method=DPO), 40)


def estimated(work: Work, calibration: Calibration | None = None) -> Estimate:
    layout = Layout(work.shape, work.hyperparameters, work.sequence_length)
    known = calibration or Calibration()
    return estimate(work, GPU, 1, decide(layout, GPU), known, 3_600_000)


def test_a_pair_is_one_example_with_two_sequences() -> None:
    assert (PREFERENCES.examples, PREFERENCES.held_out, PREFERENCES.trained_on) == (200, 10, 190)
    assert PREFERENCES.total_steps(1) == SFT.total_steps(1)
    assert PREFERENCES.trained_tokens == 2 * SFT.trained_tokens
    own = Hyperparameters(method=DPO)
    assert (
        Layout(TINY_SHAPE, own, 40).tokens == 2 * Layout(TINY_SHAPE, Hyperparameters(), 40).tokens
    )


def test_the_reference_has_a_phase_of_its_own() -> None:
    found = estimated(PREFERENCES)
    assert [each.phase for each in found.phases] == list(Phase)
    assert [each.phase for each in estimated(SFT).phases] == list(SUPERVISED_PHASES)
    reference, training = (found.typical_seconds(p) for p in (Phase.REFERENCE, Phase.TRAINING))
    assert 0 < reference < training
    assert found.typical_seconds(Phase.TRAINING) > estimated(SFT).typical_seconds(Phase.TRAINING)


def test_the_reference_has_the_factor_of_training_until_it_has_its_own() -> None:
    def reference(**factors: float) -> float:
        known = {Phase(name): factor for name, factor in factors.items()}
        calibration = Calibration(factors=known, jobs=1)
        return estimated(PREFERENCES, calibration).typical_seconds(Phase.REFERENCE)

    assert reference(training=15.0) == pytest.approx(15 * reference())
    assert reference(training=15.0, reference=2.0) == pytest.approx(2 * reference())


def test_more_epochs_score_the_reference_once() -> None:
    longer = replace(PREFERENCES, hyperparameters=Hyperparameters(method=DPO, epochs=9))
    one, other = (
        estimated(each).typical_seconds(Phase.REFERENCE) for each in (PREFERENCES, longer)
    )
    assert abs(one - other) < 1e-9


def test_a_resumed_job_does_not_score_the_reference_again() -> None:
    whole = estimated(PREFERENCES)
    for step, expected in ((0, whole.typical_seconds(Phase.REFERENCE)), (5, 0.0)):
        rest = remaining(
            whole, step=step, total_steps=36, trained=False, rate_micros_per_hour=3_600_000
        )
        assert rest.typical_seconds(Phase.REFERENCE) == expected


def test_the_trainable_tokens_of_both_answers_pass_the_head() -> None:
    labels = LabelTokens.of_counts(dict.fromkeys(range(31, 41), 400), {31: 200})
    counted = replace(PREFERENCES, lengths=PAIRS.model_copy(update={"labels": labels}))
    assert counted.label_share == pytest.approx(0.25, rel=0.03)
    assert replace(counted, sequence_length=35).label_share < counted.label_share


def test_truncation_counts_pairs() -> None:
    found = Truncation.of(TokenLengths.of([10, 90, 20, 30]), 50, sequences=2)
    assert (found.examples, found.truncated) == (2, 1)
