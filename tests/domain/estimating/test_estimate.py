"""The estimate: the trainer's own work, priced as a range, for a whole job and for its rest."""

from __future__ import annotations

import math
from collections import Counter
from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.catalog.catalog_entries import GpuType
from domain.catalog.machine import Conditions
from domain.catalog.model_shape import ModelShape
from domain.core.errors import Invalid
from domain.core.money import charge_micros
from domain.estimating import pricing
from domain.estimating.batching import padded
from domain.estimating.estimate import (
    Calibration,
    Estimate,
    Work,
    estimate,
    remaining,
    sequence_length,
)
from domain.estimating.footprint import Layout, adapter_parameters
from domain.estimating.held_out import held_out
from domain.estimating.memory import Fit, decide
from domain.training.hyperparameters import Hyperparameters
from domain.training.phases import SUPERVISED_PHASES, Phase
from domain.training.precision import Dtype, Precision
from domain.training.token_lengths import LabelTokens, TokenLengths
from services.trainer import plan
from tests.builders.shapes import CPU, LLAMA2_7B, QWEN_7B, SMOLLM2, gpu

A100 = gpu(80.0, name="a100-80", bf16_tflops=312.0)
CHATS = TokenLengths.of(Random(1).randint(15, 60) for _ in range(400))
RATE = 600_000


def work(lengths: TokenLengths = CHATS, **fields: object) -> Work:
    hyperparameters = Hyperparameters.model_validate(fields)
    return Work(
        SMOLLM2, lengths, hyperparameters, sequence_length(hyperparameters, SMOLLM2, lengths)
    )


def priced(
    job: Work, on: GpuType = CPU, ranks: int = 1, calibration: Calibration | None = None
) -> Estimate:
    chosen = decide(Layout(job.shape, job.hyperparameters, job.sequence_length, ranks), on)
    return estimate(job, on, ranks, chosen, calibration or Calibration(), ranks * RATE)


def fit(precision: Precision, checkpointing: bool, tokens: int) -> Fit:
    return Fit(
        precision=precision,
        gradient_checkpointing=checkpointing,
        dtype=Dtype.BF16,
        items={"activations": 1},
        batch_tokens=tokens,
        vram_bytes=1,
        on_cpu=False,
        rejected=(),
    )


def seconds(of: Estimate, phase: Phase) -> float:
    (found,) = [each.model_seconds for each in of.phases if each.phase is phase]
    return found


# --- The trainer's work ---


@given(st.integers(2, 5000))
def test_the_split_is_the_trainer_s(examples: int) -> None:
    assert pricing.held_out_examples(examples) == len(held_out(examples, seed=42))


@given(
    st.lists(st.integers(1, 300), min_size=2, max_size=300),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 5),
)
def test_steps_are_the_trainer_s(
    sizes: list[int], epochs: int, micro_batch: int, accumulation: int
) -> None:
    lengths = TokenLengths.of(sizes)
    job = work(
        lengths, epochs=epochs, micro_batch_size=micro_batch, gradient_accumulation=accumulation
    )
    trained = sorted(set(range(len(sizes))) - held_out(len(sizes), 42))
    real = plan.Plan(tuple(sizes[each] for each in trained), epochs, micro_batch, accumulation, 42)
    assert job.total_steps(1) == real.total_steps
    assert job.total_steps(2) == epochs * math.ceil(len(trained) / (2 * real.examples_per_step))


def test_batches_are_about_the_trainer_s() -> None:
    random = Random(7)
    sizes = [round(random.lognormvariate(4.5, 0.7)) + 8 for _ in range(2000)]
    lengths = TokenLengths.of(sizes)
    job = work(lengths, micro_batch_size=4, gradient_accumulation=8, epochs=2)
    trained = sorted(set(range(len(sizes))) - held_out(len(sizes), 42))
    real = plan.Plan(tuple(sizes[each] for each in trained), 2, 4, 8, 42)
    budget = 4 * padded(max(real.lengths))
    steps = [batch for step in range(real.total_steps) for batch in real.work(step)[0]]
    modelled = job.step_batches(1, budget)
    assert sum(each.number for each in modelled) == pytest.approx(len(steps), rel=0.1)
    tokens = sum(each.number * each.rows * each.length for each in modelled)
    assert tokens == pytest.approx(2 * sum(real.lengths), rel=0.02)
    assert len(steps) < 0.8 * real.total_steps * 8, "or short examples would not run together"


def test_a_step_of_many_examples_is_reckoned_by_some() -> None:
    """The time is that of all of them, and the wizard does not wait for it."""
    lengths = TokenLengths.of(Random(3).randint(10, 4000) for _ in range(20_000))

    for accumulation in (512, 1024):
        job = work(lengths, micro_batch_size=1, gradient_accumulation=accumulation, epochs=1)
        batches = job.step_batches(1, 4000)
        assert sum(each.rows for each in batches) == 512
        tokens = sum(each.number * each.rows * each.length for each in batches)
        assert tokens == pytest.approx(job.trained_tokens, rel=0.01)


def test_the_sequence_length_is_the_least_of_field_context_and_longest_example() -> None:
    lengths = TokenLengths.of([100, 300])
    fields = Hyperparameters()
    assert sequence_length(fields, SMOLLM2, lengths) == 300
    assert sequence_length(Hyperparameters(max_sequence_length=128), SMOLLM2, lengths) == 128
    long = TokenLengths.of([100, 30_000])
    assert sequence_length(fields, SMOLLM2, long) == SMOLLM2.context_length
    asked = Hyperparameters(max_sequence_length=20_000)
    assert sequence_length(asked, SMOLLM2, long) == SMOLLM2.context_length


def test_evaluations_between_the_steps_are_paid_for() -> None:
    """One at every multiple of the interval below the last step: that of the end is a phase."""
    never, often = priced(work(save_steps=10, eval_steps=100_000)), priced(work(save_steps=10))
    assert work(eval_steps=often.total_steps).evaluations(1) == 0
    assert work(eval_steps=often.total_steps - 1).evaluations(1) == 1
    assert work(save_steps=10).evaluations(1) == work(eval_steps=10).evaluations(1)
    forward = (seconds(often, Phase.EVALUATION) - pricing.EVALUATION_SECONDS) / 2
    added = seconds(often, Phase.TRAINING) - seconds(never, Phase.TRAINING)
    assert added == pytest.approx(work(eval_steps=10).evaluations(1) * forward)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 10))
def test_each_evaluation_is_reckoned_to_be_the_best_so_far_and_saved(
    save_steps: int, eval_steps: int, epochs: int
) -> None:
    job = work(save_steps=save_steps, eval_steps=eval_steps, epochs=epochs)
    last = job.total_steps(1)
    saved = {
        step
        for step in range(1, last + 1)
        if step == last or step % save_steps == 0 or step % eval_steps == 0
    }
    assert job.checkpoints(1) == len(saved)


def test_the_checkpoints_of_evaluations_are_paid_for() -> None:
    rarely, often = (priced(work(save_steps=100_000, eval_steps=n)) for n in (100_000, 10))
    wait = pricing.SPEEDS["cpu"].checkpoint_seconds
    job = work(save_steps=100_000, eval_steps=10)
    forward = (seconds(often, Phase.EVALUATION) - pricing.EVALUATION_SECONDS) / 2
    added = seconds(often, Phase.TRAINING) - seconds(rarely, Phase.TRAINING)
    assert added > job.evaluations(1) * (forward + wait)


def test_with_a_validation_file_all_of_the_dataset_is_trained_on() -> None:
    fields, longer = Hyperparameters(), TokenLengths.of([200] * 1000)
    split = work()
    job = Work(SMOLLM2, CHATS, fields, 200, longer)
    assert (split.held_out, split.trained_on) == (20, 380)
    assert (job.held_out, job.trained_on) == (pricing.VALIDATION_MAXIMUM, 400)
    assert Work(SMOLLM2, CHATS, fields, 200, TokenLengths.of([9] * 3)).held_out == 3
    assert job.trained_tokens == 3 * CHATS.tokens
    tokens = sum(each.number * each.rows * each.length for each in job.evaluation_batches())
    assert tokens == pytest.approx(256 * 200, rel=0.02)
    assert seconds(priced(job), Phase.EVALUATION) > 10 * seconds(priced(split), Phase.EVALUATION)
    assert seconds(priced(job), Phase.DATASET_PREP) > seconds(priced(split), Phase.DATASET_PREP)
    assert sequence_length(fields, SMOLLM2, CHATS, longer) == 200
    one = TokenLengths.of([50])
    assert priced(Work(SMOLLM2, one, fields, 50, CHATS)).total_steps == 3


def test_only_trainable_tokens_pass_the_head() -> None:
    """Half of the tokens are assumed to be trainable if they were not counted."""
    lengths = TokenLengths.of([100] * 200)

    def training(trainable: int) -> float:
        positions = dict.fromkeys(range(101 - trainable, 101), 200)
        labels = LabelTokens.of_counts(positions, {101 - trainable: 200})
        counted = lengths.model_copy(update={"labels": labels})
        return seconds(priced(work(counted)), Phase.TRAINING)

    assert training(50) == pytest.approx(seconds(priced(work(lengths)), Phase.TRAINING), rel=0.01)
    assert training(10) < training(50) < training(90)


def test_larger_adapters_take_longer_to_optimize() -> None:
    """The work of a step that does not depend on its examples."""
    small, large = (work(lora_r=r, micro_batch_size=1, gradient_accumulation=1) for r in (16, 512))
    parameters = [adapter_parameters(SMOLLM2, each.hyperparameters) for each in (small, large)]
    added = large.total_steps(1) * pricing.SPEEDS["cpu"].optimized_seconds
    added *= parameters[1] - parameters[0]
    found = seconds(priced(large), Phase.TRAINING) - seconds(priced(small), Phase.TRAINING)
    # The rest is for the adapter's matrix products and the checkpoints.
    products = 6 * (parameters[1] - parameters[0]) * large.trained_tokens
    speed = CPU.bf16_tflops * 1e12 * pricing.SPEEDS["cpu"].utilisation
    assert added < found < 1.2 * (added + products / speed)


@given(st.lists(st.integers(1, 300), min_size=2, max_size=50), st.integers(1, 400), st.data())
def test_the_share_of_trainable_tokens_is_at_most_one(
    sizes: list[int], limit: int, data: st.DataObject
) -> None:
    first = [data.draw(st.integers(1, size)) for size in sizes]
    spans = zip(sizes, first, strict=True)
    positions = Counter(at for size, start in spans for at in range(start, size + 1))
    labels = LabelTokens.of_counts(positions, Counter(first))
    lengths = TokenLengths.of(sizes).model_copy(update={"labels": labels})
    job = Work(SMOLLM2, lengths, Hyperparameters(), min(limit, max(sizes)))
    assert 0 <= job.label_share <= 1


def test_truncated_tokens_are_not_paid_for() -> None:
    lengths = TokenLengths.of([100] * 90 + [4000] * 10)
    whole, cut = priced(work(lengths)), priced(work(lengths, max_sequence_length=100))
    assert whole.tokens == pytest.approx(3 * 95 * 490, rel=0.01)
    assert cut.tokens == pytest.approx(3 * 95 * 100, rel=0.02)
    assert seconds(cut, Phase.TRAINING) < 0.4 * seconds(whole, Phase.TRAINING)


# --- Against measurements ---


def test_smollm2_on_two_cores_is_about_as_fast_as_measured() -> None:
    """Measured: 500 to 650 tokens a second without padding, in micro-batches of 8 short chats."""
    job = work(micro_batch_size=8, gradient_accumulation=2)
    of = priced(job)
    assert 480 <= of.tokens / seconds(of, Phase.TRAINING) <= 680
    assert 3 <= seconds(of, Phase.IMAGE_PULL) <= 6
    assert 0.3 <= seconds(of, Phase.MODEL_LOAD) <= 2


def step_seconds(shape: ModelShape, fields: Hyperparameters, length: int, fit: Fit) -> float:
    """Seconds of an optimizer step on an A100, of examples that are all of one length."""
    trained = 100 * fields.micro_batch_size * fields.gradient_accumulation
    examples = next(n for n in count(trained) if n - pricing.held_out_examples(n) == trained)
    lengths = TokenLengths.of([length] * examples)
    one_epoch = fields.model_copy(update={"epochs": 1, "save_steps": 100_000})
    of = estimate(Work(shape, lengths, one_epoch, length), A100, 1, fit, Calibration(), RATE)
    assert of.total_steps == 100
    return seconds(of, Phase.TRAINING) / of.total_steps


@pytest.mark.parametrize(
    ("length", "published"),
    [(256, 1.2), (512, 1.5), (1024, 2.8), (2048, 5.2), (4096, 10.1), (8192, 21.3)],
)
def test_qwen_7b_takes_about_as_long_as_published(length: int, published: float) -> None:
    """QwenLM/Qwen, README, "Profiling of Memory and Speed": seconds for 8 micro-batches of one."""
    fields = Hyperparameters(
        lora_r=64,
        micro_batch_size=1,
        gradient_accumulation=8,
        target_modules=tuple(QWEN_7B.linears),
    )
    found = step_seconds(QWEN_7B, fields, length, fit(Precision.BF16, True, length))
    print(f"{length} tokens: {found:.2f} s, published {published} s ({found / published - 1:+.0%})")
    assert found == pytest.approx(published, rel=0.25)


@pytest.mark.parametrize(
    ("length", "published"), [(1024, 2295), (2048, 2741), (4096, 2926), (8192, 3128)]
)
def test_llama_2_7b_in_4_bits_is_about_as_fast_as_published(length: int, published: float) -> None:
    """Wiki of hiyouga/LLaMA-Factory, "Performance comparison", FlashAttention2: tokens a second."""
    fields = Hyperparameters(
        lora_r=8,
        micro_batch_size=1,
        gradient_accumulation=4,
        target_modules=tuple(LLAMA2_7B.linears),
    )
    found = 4 * length / step_seconds(LLAMA2_7B, fields, length, fit(Precision.NF4, True, length))
    print(f"{length} tokens: {found:.0f} a second, published {published}")
    assert found == pytest.approx(published, rel=0.25)


# --- The range ---


@given(
    st.integers(2, 2000),
    st.dictionaries(st.sampled_from(list(Phase)), st.floats(0.05, 20.0)),
)
def test_the_upper_bound_is_30_percent_above_the_lower_for_every_phase_but_register(
    examples: int, factors: dict[Phase, float]
) -> None:
    of = priced(work(TokenLengths.of([40] * examples)), calibration=Calibration(factors=factors))
    assert [each.phase for each in of.phases] == list(SUPERVISED_PHASES)
    for each in of.phases:
        typical = each.model_seconds * factors.get(each.phase, 1.0)
        headroom = 1.0 if each.phase is Phase.REGISTER else 1.3
        assert each.high_seconds == pytest.approx(headroom * each.low_seconds)
        assert each.typical_seconds == pytest.approx(typical)
        assert of.typical_seconds(each.phase) == each.typical_seconds
    assert of.low_micros == charge_micros(RATE, of.low_seconds)
    assert of.high_micros == charge_micros(RATE, of.high_seconds)
    assert of.low_seconds <= sum(each.low_seconds for each in of.phases)
    assert of.high_seconds >= sum(each.high_seconds for each in of.phases)


def test_a_calibrated_estimate_says_from_how_many_jobs() -> None:
    factors = {Phase.TRAINING: 2.0}
    plain = priced(work())
    calibrated = priced(work(), calibration=Calibration(factors=factors, jobs=5))
    assert (plain.calibrated_from, calibrated.calibrated_from) == (0, 5)
    assert seconds(calibrated, Phase.TRAINING) == seconds(plain, Phase.TRAINING)
    assert calibrated.typical_seconds(Phase.TRAINING) == pytest.approx(
        2 * plain.typical_seconds(Phase.TRAINING)
    )


def test_two_gpus_are_faster_and_cost_more() -> None:
    lengths = TokenLengths.of([900] * 3000)
    job = Work(LLAMA2_7B, lengths, Hyperparameters(), 900)
    one, two = priced(job, A100, 1), priced(job, A100, 2)
    assert 0.5 < seconds(two, Phase.TRAINING) / seconds(one, Phase.TRAINING) < 0.6
    assert two.high_seconds < one.high_seconds
    assert two.high_micros > one.high_micros


def test_checkpointing_and_4_bits_take_longer() -> None:
    job = Work(LLAMA2_7B, TokenLengths.of([900] * 3000), Hyperparameters(), 900)

    def training(precision: Precision, checkpointing: bool) -> float:
        chosen = fit(precision, checkpointing, 4 * 904)
        return seconds(estimate(job, A100, 1, chosen, Calibration(), RATE), Phase.TRAINING)

    plain = training(Precision.BF16, False)
    assert 1.2 < training(Precision.BF16, True) / plain < 1.5
    assert 1.1 < training(Precision.NF4, False) / plain < 1.4


def test_only_the_lower_bound_assumes_an_early_stop() -> None:
    whole = priced(work(eval_steps=10))
    early = priced(work(eval_steps=10, early_stopping_patience=2))
    steps = whole.total_steps
    assert early.total_steps == steps
    assert early.high_micros == whole.high_micros
    training = next(each for each in whole.phases if each.phase is Phase.TRAINING)
    saved = (1 - 30 / steps) * training.low_seconds
    assert early.low_seconds == pytest.approx(whole.low_seconds - saved, abs=1.01)
    assert early.typical_seconds(Phase.TRAINING) == whole.typical_seconds(Phase.TRAINING)
    assert f"after 30 of {steps} steps" in early.basis
    never = priced(work(eval_steps=10, early_stopping_patience=1000))
    assert never == whole


def test_the_best_state_is_evaluated_once_more() -> None:
    final, best = (priced(work(load_best_model_at_end=on)) for on in (False, True))
    assert seconds(best, Phase.EVALUATION) > seconds(final, Phase.EVALUATION)
    assert seconds(best, Phase.TRAINING) == seconds(final, Phase.TRAINING)


@pytest.mark.parametrize("precision", Precision)
def test_dora_takes_longer(precision: Precision) -> None:
    plain, dora = (
        estimate(work(use_dora=on), CPU, 1, fit(precision, False, 512), Calibration(), RATE)
        for on in (False, True)
    )
    for phase in (Phase.TRAINING, Phase.EVALUATION):
        assert seconds(plain, phase) < seconds(dora, phase) < 4 * seconds(plain, phase)


def test_an_estimate_is_stored_and_read_as_it_is() -> None:
    of = priced(work())
    assert Estimate.model_validate_json(of.model_dump_json()) == of


# --- Absurd sizes ---


def test_a_dataset_of_one_example_is_refused() -> None:
    with pytest.raises(Invalid) as no:
        priced(work(TokenLengths.of([40])))
    assert no.value.field == "dataset"


def test_a_job_of_more_than_a_year_is_refused_whatever_its_size() -> None:
    huge = TokenLengths.of([8192]).model_copy(
        update={
            "examples": 10**12,
            "tokens": 8192 * 10**12,
            "buckets": tuple(
                each.model_copy(update={"examples": 10**12, "tokens": 8192 * 10**12})
                for each in TokenLengths.of([8192]).buckets
            ),
        }
    )
    with pytest.raises(Invalid) as no:
        priced(work(huge, epochs=100, micro_batch_size=1))
    assert no.value.field == "hyperparameters.epochs"


@given(st.integers(1, 100), st.integers(1, 256), st.integers(1, 1024), st.integers(1, 100_000))
def test_every_accepted_setting_has_a_finite_range(
    epochs: int, micro_batch: int, accumulation: int, save_steps: int
) -> None:
    job = work(
        TokenLengths.of([10, 20, 30]),
        epochs=epochs,
        micro_batch_size=micro_batch,
        gradient_accumulation=accumulation,
        save_steps=save_steps,
    )
    of = priced(job)
    assert 0 < of.low_seconds < of.high_seconds
    assert all(math.isfinite(each.high_seconds) and each.low_seconds > 0 for each in of.phases)


# --- The rest of a job ---


def test_the_rest_starts_up_anew_and_trains_what_is_left() -> None:
    whole = priced(work())
    rest = remaining(
        whole,
        step=whole.total_steps // 4,
        total_steps=whole.total_steps,
        trained=False,
        rate_micros_per_hour=2 * RATE,
    )
    left = whole.total_steps - whole.total_steps // 4
    assert rest.total_steps == left
    assert rest.rate_micros_per_hour == 2 * RATE
    for phase in SUPERVISED_PHASES:
        share = left / whole.total_steps if phase is Phase.TRAINING else 1.0
        expected = share * whole.typical_seconds(phase)
        assert rest.typical_seconds(phase) == pytest.approx(expected)
    assert rest.high_micros == charge_micros(2 * RATE, rest.high_seconds)


@pytest.mark.parametrize(("step", "stop"), [(0, 30), (12, 30), (30, 30), (31, 40), (36, 40)])
def test_the_rest_can_stop_at_its_next_evaluation(step: int, stop: int) -> None:
    job = work(eval_steps=10, early_stopping_patience=2)
    whole = priced(job)
    total = whole.total_steps
    rest = remaining(
        whole,
        step=step,
        total_steps=total,
        earliest_stop=job.hyperparameters.earliest_stop(total, after=step),
        trained=False,
        rate_micros_per_hour=RATE,
    )
    (training,) = [each for each in rest.phases if each.phase is Phase.TRAINING]
    per_step = training.low_seconds / (total - step)
    assert rest.lowest(training) == pytest.approx((stop - step) * per_step)
    assert f"after {stop - step} of {total - step} steps" in rest.basis


def test_a_trained_job_has_only_its_evaluation_left() -> None:
    whole = priced(work())
    rest = remaining(whole, step=9, total_steps=9, trained=True, rate_micros_per_hour=RATE)
    assert (rest.total_steps, rest.tokens) == (0, 0)
    assert rest.typical_seconds(Phase.TRAINING) == 0
    assert rest.typical_seconds(Phase.EVALUATION) == whole.typical_seconds(Phase.EVALUATION)
    assert rest.high_micros < whole.high_micros


def test_nothing_trained_leaves_the_whole_job() -> None:
    whole = priced(work())
    total = whole.total_steps
    assert (
        remaining(whole, step=0, total_steps=total, trained=False, rate_micros_per_hour=RATE)
        == whole
    )


# --- The rest of a job whose steps were measured ---


def rest_of(whole: Estimate) -> Estimate:
    total = whole.total_steps
    return remaining(whole, step=6, total_steps=total, trained=False, rate_micros_per_hour=RATE)


def test_measured_steps_replace_the_modeled_time_of_training() -> None:
    modeled = rest_of(priced(work()))
    rest = modeled.measured(6, 6 * 40.0)
    assert rest.typical_seconds(Phase.TRAINING) == pytest.approx(40 * rest.total_steps)
    for phase in SUPERVISED_PHASES:
        if phase is not Phase.TRAINING:
            assert rest.typical_seconds(phase) == modeled.typical_seconds(phase)
    (training,) = [each for each in rest.phases if each.phase is Phase.TRAINING]
    assert training.high_seconds == pytest.approx(1.3 * training.low_seconds)
    assert "6 steps" in rest.basis
    assert modeled.measured(4, modeled.high_seconds) == modeled, "too few steps"
    assert modeled.measured(4, modeled.high_seconds + 1).measured_steps == 4, "very slow steps"
    assert modeled.measured(0, modeled.high_seconds + 1) == modeled


def test_a_trained_job_needs_no_measured_steps() -> None:
    whole = priced(work())
    rest = remaining(whole, step=9, total_steps=9, trained=True, rate_micros_per_hour=RATE)
    assert rest.measured(9, 90.0) == rest


@pytest.mark.parametrize(
    ("times_the_model", "upper"),
    [
        (1.0, 3.0),  # measured on an idle machine
        (2.0, 3.0),
        (5.0, 5.0),  # measured under a higher load
        (0.5, 1.5),  # faster than modeled
    ],
)
def test_the_load_counts_once_in_measured_steps(times_the_model: float, upper: float) -> None:
    alone = rest_of(on(IDLE))
    shared = rest_of(on(IDLE.model_copy(update={"jobs": 2})))
    usual = alone.typical_seconds(Phase.TRAINING) / alone.total_steps
    rest = shared.measured(10, 10 * times_the_model * usual)
    assert seconds_at_most(rest) == pytest.approx(upper * seconds_at_most(alone))
    assert rest.slowdown == pytest.approx(upper / times_the_model)
    assert ("steps ran under a similar" in rest.basis) is (upper == times_the_model)


def seconds_at_most(of: Estimate) -> float:
    return sum(each.high_seconds for each in of.phases if each.phase is Phase.TRAINING)


# --- The machine of a CPU-backed type ---

IDLE = Conditions(cores=2, tflops=1.0, load=0.3)


def on(conditions: Conditions, calibration: Calibration | None = None) -> Estimate:
    job = work()
    chosen = decide(Layout(job.shape, job.hyperparameters, job.sequence_length), CPU)
    known = (calibration or Calibration()).model_copy(update={"conditions": conditions})
    return estimate(job, CPU, 1, chosen, known, RATE)


def test_a_slower_machine_takes_longer_where_no_job_has_taught_better() -> None:
    usual, slow = on(IDLE), on(IDLE.model_copy(update={"tflops": 0.25}))
    assert usual.phases == priced(work()).phases
    ratio = slow.typical_seconds(Phase.TRAINING) / usual.typical_seconds(Phase.TRAINING)
    assert 1.5 < ratio < 4
    assert seconds(slow, Phase.TRAINING) == seconds(usual, Phase.TRAINING), "factors stay as taught"
    taught = Calibration(factors={Phase.TRAINING: 1.0, Phase.EVALUATION: 1.0}, jobs=3)
    assert on(IDLE.model_copy(update={"tflops": 0.25}), taught).phases == usual.phases


def test_a_busy_machine_raises_the_upper_bound_alone_and_says_so() -> None:
    idle, busy = on(IDLE), on(IDLE.model_copy(update={"load": 4.5}))
    assert busy.low_seconds == idle.low_seconds
    for quiet, loud in zip(idle.phases, busy.phases, strict=True):
        times = 1.0 if quiet.phase is Phase.REGISTER else 3.0
        assert loud.high_seconds == pytest.approx(times * quiet.high_seconds)
    assert all(figure in busy.basis for figure in ("4.5", "2 cores", "3 times", "1 TFLOPS"))
    assert "4.5" not in idle.basis


def test_other_jobs_raise_the_upper_bound_by_their_number() -> None:
    alone, shared = on(IDLE), on(IDLE.model_copy(update={"jobs": 2}))
    assert shared.low_seconds == alone.low_seconds
    assert shared.slowdown == pytest.approx(3)
    assert all(figure in shared.basis for figure in ("2 other jobs", "2 cores", "3 times"))
    assert "busy" not in shared.basis
    both = IDLE.model_copy(update={"jobs": 1, "load": 2.5})
    assert both.slowdown == 3.0
    assert all(text in on(both).basis for text in ("2.5 processes", "1 other job", "3 times"))
    unknown = IDLE.model_copy(update={"jobs": 1, "load": None})
    assert on(unknown).slowdown == pytest.approx(2)
    assert all(text in on(unknown).basis for text in ("load is unknown", "2 times"))


def test_jobs_that_ran_under_the_same_load_have_taught_it() -> None:
    busy = IDLE.model_copy(update={"load": 4.5})
    known = on(busy, Calibration(jobs=3, slowdown=3.0))
    assert known.high_seconds == on(IDLE).high_seconds
    assert "3 finished jobs" in known.basis
    assert "times the duration" not in known.basis
    assert "already allows for it" in known.basis


def test_the_text_has_the_factor_by_which_the_load_raises_the_upper_bound() -> None:
    busier = on(IDLE.model_copy(update={"load": 99.0}), Calibration(jobs=3, slowdown=3.0))
    assert busier.slowdown == pytest.approx(8 / 3)
    assert "up to 2.7 times the duration" in busier.basis


def test_what_is_not_known_of_a_machine_is_said() -> None:
    unknown = Conditions(cores=2, tflops=None, load=None)
    assert on(unknown).phases == priced(work()).phases


@pytest.mark.parametrize(
    ("load", "slowdown"), [(0.0, 1.0), (0.9, 1.0), (1.2, 1.5), (3.0, 3.0), (9.0, 6.0), (99.0, 8.0)]
)
def test_a_slowdown_is_a_coarse_level(load: float, slowdown: float) -> None:
    assert IDLE.model_copy(update={"load": load}).slowdown == slowdown
