"""The work of a job, and the seconds of each phase."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from domain.catalog.catalog_entries import GpuType
from domain.catalog.model_shape import ModelShape
from domain.estimating.batching import fill
from domain.estimating.footprint import adapter_parameters, linear_parameters
from domain.estimating.memory import Fit
from domain.estimating.pricing import (
    ADAPTER_BYTES,
    CHECKPOINT_BYTES,
    COMPILED_WORK,
    COPY_BYTES_PER_SECOND,
    EVALUATION_SECONDS,
    FLASH_BACKWARD,
    LABEL_SHARE,
    PREP_EXAMPLE_SECONDS,
    PREP_SECONDS,
    PREP_TOKEN_SECONDS,
    REGISTER_SECONDS,
    SPEEDS,
    STORE_BYTES_PER_SECOND,
    VALIDATION_MAXIMUM,
    Speed,
    held_out_examples,
)
from domain.training.hyperparameters import DPO, Hyperparameters
from domain.training.phases import Phase
from domain.training.precision import Precision
from domain.training.token_lengths import TokenLengths

KINDS_OF_EXAMPLES = 512
"""Maximum number of examples that represent a step. In a larger step, each represents several."""


class Batch(NamedTuple):
    """Batches of the same size, and their number."""

    number: float
    rows: int  # number of sequences in each
    length: float  # mean length of a sequence in tokens


@dataclass(frozen=True)
class Work:
    """The work of a job: its examples, base model and hyperparameters.

    A chat is one sequence and one example. If the chat template rewrites history, it is one
    sequence and one example for each of its answers. A preference pair is two sequences and one
    example. As in training, examples that keep no trainable token after truncation do not count.
    """

    shape: ModelShape
    lengths: TokenLengths  # of sequences
    hyperparameters: Hyperparameters
    sequence_length: int  # maximum length of an example in tokens; longer ones are truncated
    # Lengths of the validation dataset; None: no validation dataset.
    validation: TokenLengths | None = None
    # Number of ranks when the job was approved; None: the ranks of the query.
    approved_ranks: int | None = None
    # Numbers of chats or pairs in both datasets; None: each is one example.
    conversations: int | None = None
    validation_conversations: int | None = None

    @property
    def sequences(self) -> int:
        """Number of sequences of an example."""
        return self.hyperparameters.sequences_per_example

    @property
    def examples(self) -> int:
        """Number of examples of the training dataset."""
        return self._kept(self.lengths)

    @property
    def held_out(self) -> int:
        """Number of held-out examples, which are evaluated and never trained on."""
        if self.validation is not None:
            return round(self._validated * self._kept(self.validation))
        conversations = self.examples
        if self.conversations is not None:
            conversations = min(self.examples, self.conversations)
        # All examples of a chat are held out together.
        return round(held_out_examples(conversations) * self.examples / max(1, conversations))

    @property
    def trained_on(self) -> int:
        """Training examples per epoch: with a validation dataset, the whole training dataset."""
        return self.examples - (self.held_out if self.validation is None else 0)

    @property
    def rendered(self) -> tuple[float, float]:
        """Numbers of sequences and tokens to render and tokenize."""
        examples, tokens = float(self.lengths.examples), float(self.lengths.tokens)
        if (own := self.validation) is not None:
            examples += self._validated * own.examples
            tokens += self._validated * own.tokens
        return examples, tokens

    @property
    def mean_tokens(self) -> float:
        """Mean tokens of an example, after truncation."""
        return self._tokens / self.examples

    @property
    def label_share(self) -> float:
        """Share of trainable tokens after truncation, assumed if they were not counted."""
        if (labels := self.lengths.labels) is None:
            return LABEL_SHARE
        # Both numbers are exact, except for one bucket each.
        return min(1.0, labels.kept(self.sequence_length) / max(1, self._tokens))

    @property
    def trained_tokens(self) -> int:
        """Number of tokens in all epochs, excluding padding."""
        return round(self.hyperparameters.epochs * self.trained_on * self.mean_tokens)

    def examples_per_step(self, ranks: int) -> int:
        """Return the number of examples in a full optimizer step. A resume does not change it."""
        return self.hyperparameters.examples_per_step(self.approved_ranks or ranks)

    def total_steps(self, ranks: int) -> int:
        """Return the number of optimizer steps in all epochs."""
        steps_per_epoch = math.ceil(self.trained_on / self.examples_per_step(ranks))
        return self.hyperparameters.epochs * steps_per_epoch

    def evaluations(self, ranks: int) -> int:
        """Return the number of evaluations between steps, without the final one."""
        return max(0, self.total_steps(ranks) - 1) // self.hyperparameters.evaluation_steps

    def checkpoints(self, ranks: int) -> int:
        """Return the number of checkpoints if every evaluation is the best so far, the maximum."""
        fields, steps = self.hyperparameters, self.total_steps(ranks)
        both = max(0, steps - 1) // math.lcm(fields.save_steps, fields.evaluation_steps)
        return math.ceil(steps / fields.save_steps) + self.evaluations(ranks) - both

    def step_batches(self, ranks: int, budget: int) -> list[Batch]:
        """Return the batches of a rank in a typical step. Their numbers are totals of the job."""
        examples = math.ceil(min(self.examples_per_step(ranks), self.trained_on) / ranks)
        kinds = min(examples * self.sequences, KINDS_OF_EXAMPLES)
        shares = [(kind + 0.5) / kinds for kind in range(kinds)]
        lengths = self._quantiles(self.lengths, shares)
        steps = self.hyperparameters.epochs * self.trained_on * self.sequences / kinds
        return [
            Batch(steps, len(batch), fmean(lengths[each] for each in batch))
            for batch in fill(lengths, budget)
        ]

    def evaluation_batches(self) -> list[Batch]:
        """Return the batches of the evaluated examples. Each has the size of a micro-batch."""
        lengths, size = self.validation or self.lengths, self.hyperparameters.micro_batch_size
        starts = range(0, self.held_out, size)
        rows = [min(size, self.held_out - start) for start in starts]
        shares = [(start + r / 2) / self.held_out for start, r in zip(starts, rows, strict=True)]
        means = self._quantiles(lengths, shares)
        return [Batch(1, self.sequences * r, tokens) for r, tokens in zip(rows, means, strict=True)]

    @property
    def _validated(self) -> float:
        assert self.validation is not None
        conversations = self.validation_conversations
        if conversations is None:
            conversations = self.validation.examples // self.sequences
        return min(1.0, VALIDATION_MAXIMUM / max(1, conversations))

    @property
    def _tokens(self) -> float:
        lengths, limit = self.lengths, self.sequence_length
        dropped = self._dropped(lengths)
        # Dropped examples are longer than the limit. The mean represents those without any
        # trainable token.
        tokens = lengths.after_truncation(limit) - dropped * limit
        kept = self._kept(lengths) * self.sequences
        return max(kept, tokens * kept / max(1, lengths.examples - dropped))

    def _kept(self, lengths: TokenLengths) -> int:
        examples = lengths.examples // self.sequences
        if (labels := lengths.labels) is None:
            return examples
        return min(examples, labels.teaching(self.sequence_length))

    def _dropped(self, lengths: TokenLengths) -> int:
        if (labels := lengths.labels) is None:
            return 0
        return self.sequences * (labels.first.examples - labels.teaching(self.sequence_length))

    def _quantiles(self, lengths: TokenLengths, shares: list[float]) -> list[float]:
        """Return quantiles of truncated lengths. Dropped sequences are above all others."""
        kept = 1 - self._dropped(lengths) / max(1, lengths.examples)
        return lengths.quantiles([share * kept for share in shares], self.sequence_length)


def phase_seconds(work: Work, gpu: GpuType, ranks: int, fit: Fit) -> dict[Phase, float]:
    """Return the seconds of each phase, from the constants in `domain.estimating.pricing`."""
    speed = SPEEDS[gpu.backing]
    weights = 2 * work.shape.parameters  # bytes in the model store
    adapter = adapter_parameters(work.shape, work.hyperparameters)
    examples, tokens = work.rendered
    load = speed.load_seconds + weights / speed.load_bytes_per_second
    if fit.precision is Precision.NF4:
        load += weights / speed.quantize_bytes_per_second
    scoring = _scoring_seconds(work, gpu, ranks, fit, speed)
    # With DPO, the rewards before training are zero by definition.
    passes = 1 if work.hyperparameters.method == DPO else 2
    return {
        Phase.IMAGE_PULL: speed.image_pull_seconds,
        Phase.MODEL_LOAD: load,
        Phase.DATASET_PREP: PREP_SECONDS
        + PREP_EXAMPLE_SECONDS * examples
        + PREP_TOKEN_SECONDS * tokens,
        **_reference_seconds(work, gpu, ranks, fit, speed),
        Phase.TRAINING: _training_seconds(work, gpu, ranks, fit, speed),
        # One pass without the adapter, one with it, and one of the best state.
        Phase.EVALUATION: EVALUATION_SECONDS
        + (passes + work.hyperparameters.load_best_model_at_end) * scoring,
        Phase.REGISTER: REGISTER_SECONDS + ADAPTER_BYTES * adapter / STORE_BYTES_PER_SECOND,
    }


def _reference_seconds(
    work: Work, gpu: GpuType, ranks: int, fit: Fit, speed: Speed
) -> dict[Phase, float]:
    """Return the first segment's seconds of DPO's reference, a forward pass over all examples."""
    if work.hyperparameters.method != DPO:
        return {}
    trained = [
        each._replace(number=each.number / work.hyperparameters.epochs)
        for each in work.step_batches(ranks, fit.batch_tokens)
    ]
    seconds = _forward_seconds(work, gpu, fit, speed, [*trained, *work.evaluation_batches()])
    return {Phase.REFERENCE: seconds / _speed_up(ranks, speed)}


def _training_seconds(work: Work, gpu: GpuType, ranks: int, fit: Fit, speed: Speed) -> float:
    fields = work.hyperparameters
    batches = work.step_batches(ranks, fit.batch_tokens)
    seconds = sum(each.number * _batch_seconds(work, gpu, fit, speed, each) for each in batches)
    share, compiling = _compiled(work, ranks, fit, speed)
    steps = work.total_steps(ranks)
    checkpoint = CHECKPOINT_BYTES * adapter_parameters(work.shape, fields) / COPY_BYTES_PER_SECOND
    return (
        compiling
        + share * seconds / _speed_up(ranks, speed)
        + steps * _optimizer_seconds(work, speed)
        + work.checkpoints(ranks) * (speed.checkpoint_seconds + checkpoint)
        + work.evaluations(ranks) * _scoring_seconds(work, gpu, ranks, fit, speed)
    )


def _optimizer_seconds(work: Work, speed: Speed) -> float:
    """Return the seconds of a step without its batches: AdamW, gradient clipping and the report.

    AdamW reads and writes the parameters, their gradients and both moments (Loshchilov and Hutter,
    Decoupled Weight Decay Regularization (2019)), one tensor at a time.
    """
    fields = work.hyperparameters
    tensors = work.shape.layers * len(fields.target_modules) * (3 if fields.use_dora else 2)
    return (
        speed.step_seconds
        + tensors * speed.tensor_seconds
        + adapter_parameters(work.shape, fields) * speed.optimized_seconds
    )


def _compiled(work: Work, ranks: int, fit: Fit, speed: Speed) -> tuple[float, float]:
    """Return the ratio of compiled to eager time, and the seconds of compilation."""
    eager = ranks > 1 or fit.precision is Precision.NF4 or fit.gradient_checkpointing
    eager = eager or work.hyperparameters.use_dora
    long = work.shape.parameters * work.trained_tokens >= COMPILED_WORK
    if speed.compiled is None or eager or not long:
        return 1.0, 0.0
    return speed.compiled, speed.compiling_seconds


def _scoring_seconds(work: Work, gpu: GpuType, ranks: int, fit: Fit, speed: Speed) -> float:
    seconds = _forward_seconds(work, gpu, fit, speed, work.evaluation_batches())
    return seconds / _speed_up(ranks, speed)


def _forward_seconds(
    work: Work, gpu: GpuType, fit: Fit, speed: Speed, batches: list[Batch]
) -> float:
    launching = _launching_seconds(work, speed) / 3
    dequantizing = _dequantizing_seconds(work, fit, speed)
    return sum(
        each.number
        * _elapsed(
            _computing(_forward(work, each), gpu, speed)
            + dequantizing
            + _dora_seconds(work, fit, speed, each, forward=1, backward=0),
            launching,
            speed,
        )
        for each in batches
    )


def _batch_seconds(work: Work, gpu: GpuType, fit: Fit, speed: Speed, batch: Batch) -> float:
    operations = _forward(work, batch) + _backward(work, batch)
    launching = _launching_seconds(work, speed)
    passes = 2
    if fit.gradient_checkpointing:
        operations += _forward(work, batch, head=False)
        launching *= 4 / 3
        passes = 3
    computing = _computing(operations, gpu, speed) + passes * _dequantizing_seconds(
        work, fit, speed
    )
    computing += batch.rows * batch.length * _adapted_elements(work) * speed.adapted_seconds
    computing += _dora_seconds(work, fit, speed, batch, forward=passes - 1, backward=1)
    return _elapsed(computing, launching, speed)


def _launching_seconds(work: Work, speed: Speed) -> float:
    modules = len(work.hyperparameters.target_modules)
    return work.shape.layers * (speed.layer_seconds + modules * speed.module_seconds)


def _adapted_elements(work: Work) -> int:
    linears = work.shape.linears
    return work.shape.layers * sum(
        sum(linears[name]) for name in work.hyperparameters.target_modules
    )


def _dora_seconds(
    work: Work, fit: Fit, speed: Speed, batch: Batch, *, forward: int, backward: int
) -> float:
    """Return the seconds of DoRA's norms in the forward passes, and of its magnitudes.

    A backward pass multiplies the outputs by two tensors, and a forward pass by one.
    """
    if not work.hyperparameters.use_dora:
        return 0.0
    linears = [work.shape.linears[name] for name in work.hyperparameters.target_modules]
    weights = work.shape.layers * sum(map(math.prod, linears))
    outputs = work.shape.layers * sum(outputs for _, outputs in linears)
    # The norms need the product of the frozen weight and A, in float32.
    norm = speed.norm_seconds + work.hyperparameters.lora_r * speed.norm_rank_seconds
    if fit.precision is Precision.NF4:
        norm += 1 / speed.dequantized_per_second
    tokens = batch.rows * batch.length
    scaled = tokens * outputs * speed.magnitude_seconds / 3
    return forward * weights * norm + (forward + 2 * backward) * scaled


def _elapsed(computing: float, launching: float, speed: Speed) -> float:
    """Return the elapsed seconds. A GPU launches kernels while earlier ones compute."""
    return max(computing, launching) if speed.overlaps else computing + launching


def _computing(operations: float, gpu: GpuType, speed: Speed) -> float:
    return operations / (gpu.bf16_tflops * 1e12 * speed.utilisation)


def _dequantizing_seconds(work: Work, fit: Fit, speed: Speed) -> float:
    if fit.precision is not Precision.NF4:
        return 0.0
    return linear_parameters(work.shape) / speed.dequantized_per_second


def _speed_up(ranks: int, speed: Speed) -> float:
    return 1 + (ranks - 1) * speed.scaling


def _forward(work: Work, batch: Batch, *, head: bool = True) -> float:
    """Return the FLOPs of a forward pass: 2 per parameter (Kaplan et al., 2020), and attention."""
    shape = work.shape
    parameters = linear_parameters(shape) + adapter_parameters(shape, work.hyperparameters)
    if head:
        parameters += _head_parameters(work)
    return batch.rows * batch.length * (2 * parameters + _attention(shape, batch.length))


def _backward(work: Work, batch: Batch) -> float:
    """Return the FLOPs of a batch's backward pass. Frozen weights have no gradients."""
    shape = work.shape
    parameters = linear_parameters(shape) + _head_parameters(work)
    parameters += 2 * adapter_parameters(shape, work.hyperparameters)
    attention = FLASH_BACKWARD * _attention(shape, batch.length)
    return batch.rows * batch.length * (2 * parameters + attention)


def _head_parameters(work: Work) -> float:
    """Return the head's parameters, scaled by the share of trainable tokens, for which it runs."""
    return work.label_share * work.shape.vocab_size * work.shape.hidden_size


def _attention(shape: ModelShape, length: float) -> float:
    """Return attention's FLOPs per token. On average, a token attends to half of the row."""
    return 2 * shape.layers * shape.attention_heads * shape.head_dim * length
