"""The phases of a segment, in order: load, prepare, train, evaluate, register.

With DPO, `prepare` also computes the reference.

In each step, `train` calls `Training.step`, which cuts the plan's micro-batches into tensors
(`batches.collate`), adds their gradients and runs the optimizer.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from domain.core.quantities import gib
from domain.estimating.pricing import COMPILED_WORK
from domain.training.checkpoint import RejectionReason
from domain.training.phases import Phase
from domain.training.precision import Precision
from infrastructure.artifacts.disk_cache import MODELS
from infrastructure.artifacts.store import ArtifactCorrupt
from infrastructure.chat.chat_template import CHAT_TEMPLATE
from infrastructure.training.reports import StepMeasured
from services.model_libraries import choose_dtype, torch_dtype
from services.trainer.base_files import VERIFIED, BaseFiles
from services.trainer.checkpoint_writer import Checkpoints
from services.trainer.context import Context
from services.trainer.dataset import Dataset, read
from services.trainer.divergence import Divergence
from services.trainer.evaluation import Evaluations, HeldOut
from services.trainer.examples import Renderer
from services.trainer.execution import ExecutionMode, make_deterministic
from services.trainer.gpu_use import GpuMeter
from services.trainer.kernels.compiling import why_eager
from services.trainer.model import (
    attach_adapter,
    checkpoint_activations,
    context_length,
    load_base,
    load_start,
    load_tokenizer,
    load_weights,
    require_base,
    save_adapter,
)
from services.trainer.objectives import PreferenceLoss
from services.trainer.packing import pack_if_able
from services.trainer.pairs import Pair, all_sequences
from services.trainer.peak_memory import PeakMemory, record_program_memory, reset_peak
from services.trainer.plan import Plan
from services.trainer.processes.warm_base import WarmBase
from services.trainer.progress import EvaluatedStep, Progress
from services.trainer.reference import Referee
from services.trainer.sampling import Sample, Sampling
from services.trainer.training import Step, Training

COMPILED = "layers are compiled"


@dataclass(frozen=True)
class Loaded:
    """The base model in memory, with a new adapter."""

    tokenizer: PreTrainedTokenizerBase
    model: PeftModel
    mode: ExecutionMode  # before the choice between compiled and eager layers
    eager_reason: str | None  # reason why layers cannot be compiled; None: they can
    base_parameters: int
    context_length: int  # in tokens
    vocabulary_size: int
    base_files: BaseFiles | None  # still being hashed; rank 0 only
    peak_memory: PeakMemory
    gpu_meter: GpuMeter


@dataclass(frozen=True)
class Prepared:
    """The rendered dataset and the optimizer, restored from the checkpoint if there is one."""

    renderer: Renderer
    training: Training
    mode: ExecutionMode
    divergence: Divergence
    evaluations: Evaluations
    sampling: Sampling


def run(context: Context, checkpoints: Checkpoints, warm_base: WarmBase | None = None) -> None:
    """Run every phase. Return when the adapter is registered.

    Raise SegmentStopped if the lease or a stop request ends the segment earlier. A checkpoint then
    includes all completed steps. Only rank 0 stores anything.
    """
    try:
        loaded = load(context, checkpoints, warm_base)
        prepared = prepare(context, checkpoints, loaded)
        train(context, checkpoints, loaded, prepared)
        evaluate(context, checkpoints, loaded, prepared)
        context.ranks.leave()
        if context.ranks.leads:
            register(context, loaded, prepared)
    finally:
        checkpoints.close()


def load(context: Context, checkpoints: Checkpoints, warm_base: WarmBase | None) -> Loaded:
    """Load the tokenizer and the base model, attach a new adapter, and fetch the checkpoint."""
    context.enter(Phase.MODEL_LOAD)
    spec, ranks, lease = context.spec, context.ranks, context.lease
    hyperparameters = spec.hyperparameters
    # First, so that an unreachable store does not look like a lost checkpoint.
    manifest = require_base(context.artifacts, spec.base_ref, spec.base_manifest_sha256)
    eager_reason = why_eager(spec, ranks)
    record_program_memory()
    own_mode = ExecutionMode.of_machine(
        _dtype(context), ranks, compiled=eager_reason is None, split=spec.micro_batch_split
    )
    mode = checkpoints.fetch(own_mode)
    mode.set_threads()
    lease.check()
    with ranks.leader_first():
        directory = context.artifacts.local_directory(spec.base_ref, context.cache / MODELS)
    base_files = None
    if ranks.leads:
        base_files = BaseFiles(directory, manifest, context.cache / VERIFIED, lease.check)
    tokenizer, base = _tokenizer_and_base(context, directory, mode, warm_base)
    pack_if_able(base)
    mode = mode.set_attention(base)
    lease.check()
    base_parameters, length = base.num_parameters(), context_length(base, tokenizer)
    if spec.gradient_checkpointing:
        checkpoint_activations(base)
    # Gives every rank the same adapter. Dropout then differs between ranks.
    torch.manual_seed(hyperparameters.seed)
    model = attach_adapter(base, hyperparameters, spec.base_model)
    reset_peak()
    peak_memory = PeakMemory(ranks.device)
    if not ranks.leads:
        torch.manual_seed(hyperparameters.seed + (ranks.rank << 32))
    held = "4-bit NF4, computed" if spec.precision is Precision.NF4 else "held"
    context.reporter.log(
        f"base model {spec.base_model} on {mode.device}, {held} in {mode.dtype}, adapter in "
        f"float32; ranks: {mode.ranks}, threads: {mode.threads}; "
        f"{model.get_nb_trainable_parameters()[0]:,} trainable parameters"
    )
    return Loaded(
        tokenizer=tokenizer,
        model=model,
        mode=mode,
        eager_reason=eager_reason,
        base_parameters=base_parameters,
        context_length=length,
        vocabulary_size=base.config.get_text_config().vocab_size,
        base_files=base_files,
        peak_memory=peak_memory,
        gpu_meter=GpuMeter(ranks.device, partial(context.reporter.log, level="DEBUG")),
    )


def _dtype(context: Context) -> torch.dtype:
    """Return the approved dtype, even if this machine has to emulate it."""
    best = choose_dtype(context.ranks.device)
    if context.spec.dtype is None:
        return best
    approved = torch_dtype(context.spec.dtype)
    if approved is torch.bfloat16 and best is not approved:
        context.reporter.log(
            "the job was approved in bf16, which this machine emulates: training is slower than "
            "estimated",
            "WARNING",
        )
    return approved


def _tokenizer_and_base(
    context: Context, directory: Path, mode: ExecutionMode, warm_base: WarmBase | None
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Return the warm base model if it matches. Otherwise, load it from its directory."""
    spec, dtype, device = context.spec, mode.torch_dtype, context.ranks.device
    if warm_base is not None:
        warm = warm_base.take(directory, spec.base_manifest_sha256, dtype, spec.precision)
        if warm is not None:
            tokenizer, base = warm
            return tokenizer, base.to(device)  # pyright: ignore[reportArgumentType]  # see load_base
    tokenizer = load_tokenizer(directory)
    context.lease.check()
    return tokenizer, load_base(directory, dtype, device, spec.precision)


def prepare(context: Context, checkpoints: Checkpoints, loaded: Loaded) -> Prepared:
    """Render and split the dataset, plan the steps, and restore the fetched checkpoint."""
    context.enter(Phase.DATASET_PREP)
    spec, reporter, ranks = context.spec, context.reporter, context.ranks
    hyperparameters, length = spec.hyperparameters, loaded.context_length
    limit = min(hyperparameters.max_sequence_length or length, length)
    renderer = Renderer(loaded.tokenizer, limit, spec.approved_on)
    if renderer.uses_fallback:
        checkpoints.chat_template = renderer.template.source
        reporter.log(
            "the base model has no chat template: the trainer uses a ChatML-like template, "
            f"which it stores with the adapter as {CHAT_TEMPLATE}",
            "WARNING",
        )
    dataset, rendered = read(
        spec, context.artifacts, context.scratch, renderer, context.lease.check
    )
    reporter.log(f"{rendered}; limit {limit:,} tokens")
    plan = Plan.of(spec, dataset.train)
    training = Training(loaded.model, plan, dataset.train, hyperparameters, ranks, context.lease)
    mode = _compile_if_long(context, loaded, training, begins=checkpoints.progress.step == 0)
    mode = _make_deterministic(context, training, mode)
    checkpoints.restore(training, mode, len(dataset.held_out))
    if spec.start_ref is not None and checkpoints.progress.step == 0:
        load_start(loaded.model, context.artifacts, spec, context.scratch / "continued")
        reporter.log("the adapter starts with the weights of an earlier model")
    _refer(context, loaded, training, dataset)
    progress = checkpoints.progress
    prepared = Prepared(
        renderer=renderer,
        training=training,
        mode=mode,
        divergence=Divergence(loaded.vocabulary_size, progress),
        evaluations=Evaluations(
            context, HeldOut(dataset.held_out, plan, ranks, training.objective), progress
        ),
        sampling=Sampling(
            renderer, dataset.question, all_sequences(dataset.held_out), ranks.device
        ),
    )
    stop = progress.early_stop(hyperparameters.early_stopping_patience, plan.total_steps)
    reporter.update(
        total_steps=stop.step if stop else plan.total_steps,
        stopped_early=stop,
        step=progress.step,
        trained_tokens=progress.trained_tokens,
        train_examples=len(dataset.train),
        eval_examples=len(dataset.held_out),
    )
    reporter.log(
        f"{len(dataset.train):,} examples to train on, {len(dataset.held_out):,} held out; "
        f"{plan.total_steps:,} steps, {plan.steps_per_epoch:,} per epoch"
    )
    if loaded.base_files is not None:
        loaded.base_files.require()
    return prepared


def _refer(context: Context, loaded: Loaded, training: Training, dataset: Dataset) -> None:
    """Compute the reference of DPO, unless a checkpoint had it."""
    objective, spec = training.objective, context.spec
    if not isinstance(objective, PreferenceLoss) or objective.reference is not None:
        return
    context.enter(Phase.REFERENCE)
    began, continues = time.monotonic(), spec.start_ref is not None
    referee = Referee(
        loaded.model, continues, training.plan, context.ranks, context.lease, context.reporter.log
    )
    train = [each for each in dataset.train if isinstance(each, Pair)]
    held_out = [each for each in dataset.held_out if isinstance(each, Pair)]
    objective.reference = referee.reference(train, held_out)
    policy = "the adapter that the job continues" if continues else "the base model"
    context.reporter.log(
        f"scored {len(train) + len(held_out):,} pairs with {policy} as the reference in "
        f"{time.monotonic() - began:.1f} s"
    )


def _compile_if_long(
    context: Context, loaded: Loaded, training: Training, *, begins: bool
) -> ExecutionMode:
    compiled, reason = loaded.mode.compiled, loaded.eager_reason
    tokens = training.plan.tokens
    if compiled and begins and loaded.base_parameters * tokens < COMPILED_WORK:
        compiled = False
        reason = (
            f"{tokens:,} tokens are too few to make up for the time of compiling a base "
            "model of this size"
        )
    elif not compiled and reason is None:
        reason = "as in the checkpoint"
    if compiled and (failure := training.compile()) is not None:
        compiled, reason = False, f"the compiler failed: {failure}"
    context.reporter.log(COMPILED if compiled else f"layers are eager: {reason}")
    return loaded.mode.model_copy(update={"compiled": compiled})


def _make_deterministic(context: Context, training: Training, mode: ExecutionMode) -> ExecutionMode:
    if context.ranks.device.type != "cuda":
        return mode  # a CPU is already deterministic
    failure = make_deterministic(training.rehearse)
    if failure is not None:
        context.reporter.log(
            f"two runs of a step may differ in the last digits on this GPU: {failure}", "WARNING"
        )
    return mode.model_copy(update={"deterministic": failure is None})


def train(context: Context, checkpoints: Checkpoints, loaded: Loaded, prepared: Prepared) -> None:
    """Run the steps, all or until the held-out loss stops falling. Save checkpoints when due."""
    context.enter(Phase.TRAINING)
    progress, total_steps = checkpoints.progress, prepared.training.plan.total_steps
    patience = context.spec.hyperparameters.early_stopping_patience
    while (stop := progress.early_stop(patience, total_steps)) is None:
        if prepared.evaluations.due(total_steps):
            if not prepared.evaluations.between(loaded.model):
                if checkpoints.due:
                    _save(context, checkpoints, prepared, last=False)
                _stop(context, checkpoints, prepared)
                continue  # the lease was extended in the meantime
            last = progress.early_stop(patience, total_steps) is not None
        elif progress.step == total_steps:
            break
        else:
            step = prepared.training.step(progress.step)
            if step is None:
                _stop(context, checkpoints, prepared)
                continue
            progress.take(step, total_steps)
            _report_step(context, progress, step, total_steps, loaded)
            prepared.divergence.take(step.loss)
            if prepared.evaluations.due(total_steps):
                continue  # a checkpoint has the loss of the evaluation
            last = progress.step == total_steps
        if checkpoints.due or last:
            _save(context, checkpoints, prepared, last=last)
    checkpoints.flush()
    if stop is not None:
        context.reporter.update(total_steps=stop.step, stopped_early=stop)
        context.reporter.log(
            f"training stops early at step {stop.step:,} of {stop.planned_steps:,}: "
            f"{stop.evaluations:,} evaluations in a row did not lower the held-out loss "
            f"by more than the threshold; it was lowest at step {stop.lowest_step:,}, with "
            f"{stop.lowest_eval_loss:.4f}"
        )


def _stop(context: Context, checkpoints: Checkpoints, prepared: Prepared) -> None:
    """Save in all ranks, for their random states. Raise SegmentStopped unless the lease grew."""
    if prepared.divergence.suspect:
        context.reporter.log(
            f"the trainer saves step {checkpoints.progress.step:,} although its loss is above "
            f"{prepared.divergence.threshold}; the next segment continues the check",
            "WARNING",
        )
    checkpoints.save(prepared.training, prepared.mode, in_background=False)
    context.lease.check()


def _report_step(
    context: Context, progress: Progress, step: Step, total_steps: int, loaded: Loaded
) -> None:
    spec, peak_bytes, gpu_use = context.spec, loaded.peak_memory.bytes, loaded.gpu_meter.use()
    context.reporter.update(
        step=progress.step,
        trained_tokens=progress.trained_tokens,
        train_loss=step.loss,
        tokens_per_second=progress.tokens_per_second,
        peak_memory_bytes=peak_bytes,
    )
    context.reporter.measure(
        StepMeasured(
            account_id=spec.account_id,
            job_id=spec.job_id,
            segment=spec.segment,
            step=progress.step,
            total_steps=total_steps,
            train_loss=step.loss,
            accuracy=step.rewards and step.rewards.accuracy,
            chosen_reward=step.rewards and step.rewards.chosen,
            rejected_reward=step.rewards and step.rewards.rejected,
            smoothed_loss=progress.smoothed_loss.value,
            learning_rate=step.learning_rate,
            tokens=step.tokens,
            tokens_per_second=step.tokens / step.seconds,
            elapsed_seconds=context.lease.clock.elapsed(),
            peak_memory_bytes=peak_bytes,
            gpu_utilization=None if gpu_use is None else gpu_use.utilization,
            gpu_memory_bytes=None if gpu_use is None else gpu_use.memory_bytes,
            measured_at=datetime.now(UTC),
        )
    )


def _save(context: Context, checkpoints: Checkpoints, prepared: Prepared, *, last: bool) -> None:
    if prepared.divergence.suspect:
        context.reporter.log(
            f"the trainer does not save step {checkpoints.progress.step:,}, because its loss "
            f"is above {prepared.divergence.threshold}",
            "WARNING",
        )
        return
    sampled = context.ranks.leads and (last or prepared.sampling.due)
    sample = _sample(context, prepared) if sampled else None
    checkpoints.save(prepared.training, prepared.mode, sample, in_background=not last)


def _sample(context: Context, prepared: Prepared) -> Sample | None:
    """Return the answer to the fixed prompt at this step, or None if the segment has to end.

    A failure, such as a lack of memory, does not prevent the checkpoint.
    """
    began = time.monotonic()
    try:
        sample = prepared.sampling.sample(prepared.training.adapted, context.lease)
    except Exception as error:  # noqa: BLE001  # training does not need the sample
        context.reporter.log(f"could not answer the fixed prompt: {error!r}", "WARNING")
        return None
    context.lease.progress()
    if sample is not None:
        seconds = time.monotonic() - began
        context.reporter.log(f"answered the fixed prompt in {seconds:.2f} s", "DEBUG")
    return sample


def evaluate(
    context: Context, checkpoints: Checkpoints, loaded: Loaded, prepared: Prepared
) -> None:
    """Evaluate on the held-out examples, without and with the adapter.

    If the job registers its best state, the adapter then has the weights of that state. Raise
    LossDiverged if the run has diverged.
    """
    context.enter(Phase.EVALUATION)
    progress = checkpoints.progress
    evaluation = prepared.evaluations.conclude(
        loaded.model, partial(_restore_best, context, checkpoints, prepared.training)
    )
    prepared.divergence.conclude(evaluation.loss_before, evaluation.loss_after)
    peaks = context.ranks.gather(torch.tensor([loaded.peak_memory.bytes]))
    peak_bytes = int(peaks.max().item())
    context.reporter.update(now=True, evaluation=evaluation, peak_memory_bytes=peak_bytes)
    if (predicted := context.spec.required_bytes) is not None:
        on_gpu = context.ranks.device.type == "cuda"
        kind = "GPU memory" if on_gpu else "host memory, without the program itself"
        context.reporter.log(
            f"peak of {kind}: {gib(peak_bytes):g} GiB measured, {gib(predicted):g} GiB predicted",
            "WARNING" if peak_bytes > predicted else "INFO",
        )
    best = progress.best_eval_loss
    if evaluation.step is None and best is not None and best < evaluation.loss_after:
        context.reporter.log(
            f"the checkpoint of step {progress.best_step:,} has a lower held-out loss "
            f"({best:.4f}) than the final adapter ({evaluation.loss_after:.4f}), which EcoLink "
            "registers",
            "WARNING",
        )


def _restore_best(
    context: Context, checkpoints: Checkpoints, training: Training, most: float
) -> EvaluatedStep | None:
    """Give the adapter of all ranks the weights of the best intact checkpoint.

    `most` is the highest held-out loss. Return the restored state, or None if no such checkpoint is
    intact. The adapter then keeps its weights.
    """
    restored, problem = None, None
    if context.ranks.leads:
        try:
            restored = _read_best(context, checkpoints, training, most)
        except Exception as error:  # noqa: BLE001  # all ranks must learn of any error
            problem = error
    checkpoints.require(problem)
    if not context.ranks.agree(restored is not None):
        return None
    context.ranks.share(training.adapter)
    step, loss = context.ranks.sum(*(restored or (0.0, 0.0)))  # zero in the other ranks
    return EvaluatedStep(int(step), loss)


def _read_best(
    context: Context, checkpoints: Checkpoints, training: Training, most: float
) -> EvaluatedStep | None:
    spec, artifacts = context.spec, context.artifacts
    # First, so that an unreachable store does not look like a lost checkpoint.
    require_base(artifacts, spec.base_ref, spec.base_manifest_sha256)
    for saved in checkpoints.best_first(most):
        scratch = context.scratch / "best"
        try:
            load_weights(training.adapted, artifacts, saved.ref, saved.manifest_sha256, scratch)
        except FileNotFoundError as error:
            checkpoints.reject(saved, RejectionReason.MISSING, error)
        except ArtifactCorrupt as error:
            checkpoints.reject(saved, RejectionReason.CORRUPT, error)
        else:
            assert saved.eval_loss is not None
            return EvaluatedStep(saved.step, saved.eval_loss)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return None


def register(context: Context, loaded: Loaded, prepared: Prepared) -> None:
    """Store the adapter in PEFT's format. The scheduler writes its model card and provenance."""
    context.enter(Phase.REGISTER)
    directory, prefix = context.scratch / "adapter", context.spec.adapter_prefix
    save_adapter(loaded.model, directory)
    if prepared.renderer.uses_fallback:
        (directory / CHAT_TEMPLATE).write_text(prepared.renderer.template.source)
    manifest = context.artifacts.put_directory(prefix, directory)
    context.reporter.update(adapter_ref=prefix, adapter_manifest_sha256=manifest.sha256)
