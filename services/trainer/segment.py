"""One segment of a job, from its spec to its outcome: load, prepare, train, evaluate, register."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from peft import PeftModel
from transformers.modeling_utils import PreTrainedModel

from domain.estimating.memory import gib
from domain.estimating.pricing import COMPILED_WORK
from domain.training.phases import Phase
from domain.training.precision import Precision
from infrastructure.artifacts import Artifacts
from infrastructure.chat_template import CHAT_TEMPLATE
from infrastructure.disk_cache import MODELS
from infrastructure.reports import SegmentSpec, StepMeasured
from services.model_libraries import choose_dtype, torch_dtype
from services.trainer.base_files import VERIFIED, BaseFiles
from services.trainer.checkpoint_writer import Checkpoints
from services.trainer.data_position import content_sha256
from services.trainer.dataset import Dataset, read
from services.trainer.divergence import Divergence
from services.trainer.evaluation import Evaluations, HeldOut
from services.trainer.examples import Renderer
from services.trainer.execution import ExecutionMode
from services.trainer.kernels.compiling import why_eager
from services.trainer.lease import Lease, SegmentStopped
from services.trainer.model import (
    attach_adapter,
    checkpoint_activations,
    context_length,
    load_base,
    load_tokenizer,
    require_base,
    save_adapter,
)
from services.trainer.packing import pack_if_able
from services.trainer.peak_memory import PeakMemory, forget_loading, note_program
from services.trainer.plan import Plan
from services.trainer.processes.ranks import Ranks
from services.trainer.processes.warm_base import WarmBase
from services.trainer.progress import Progress
from services.trainer.reporter_port import ReporterPort
from services.trainer.sampling import Sample, Sampling
from services.trainer.training import Step, Training


class Segment:
    """A segment at work, in one of its ranks. `run` returns when the adapter is registered.

    SegmentStopped leaves it when the lease or a stop ends it before; by then what was done is in a
    checkpoint, unless no step was done. Only rank 0's lease ends, and only rank 0 stores anything.
    """

    def __init__(
        self,
        spec: SegmentSpec,
        artifacts: Artifacts,
        scratch: Path,
        cache: Path,
        reporter: ReporterPort,
        lease: Lease,
        ranks: Ranks,
        warm_base: WarmBase | None = None,
    ) -> None:
        self.spec, self.hyperparameters = spec, spec.hyperparameters
        self.artifacts, self.cache = artifacts, cache
        self.scratch = scratch if ranks.leads else scratch / f"rank-{ranks.rank}"
        self.scratch.mkdir(exist_ok=True)
        self.reporter, self.lease, self.ranks = reporter, lease, ranks
        self.warm_base = warm_base
        self.progress = Progress()
        self.checkpoints = Checkpoints(
            spec, artifacts, self.scratch, reporter, lease, ranks, self.progress
        )

    def run(self) -> None:
        """Run every phase; raises SegmentStopped, or whatever went wrong."""
        try:
            self._load()
            self._prepare()
            self._train()
            self._evaluate()
            self.ranks.leave()
            if self.ranks.leads:
                self._register()
        finally:
            self.checkpoints.close()

    def _load(self) -> None:
        """Model load: tokenizer, base model and a fresh adapter; with a checkpoint, its files."""
        spec = self.spec
        self._enter(Phase.MODEL_LOAD)
        # First: a store that is away must not look like one that lost a checkpoint.
        manifest = require_base(self.artifacts, spec.base_ref, spec.base_manifest_sha256)
        self.why_eager = why_eager(spec, self.ranks)
        note_program()
        natural = ExecutionMode.natural(
            self._dtype(),
            self.ranks,
            compiled=self.why_eager is None,
            split=spec.micro_batch_split,
        )
        mode = self.checkpoints.fetch(natural)
        mode.take_effect()
        self.lease.check()
        with self.ranks.leader_first():
            directory = self.artifacts.local_directory(spec.base_ref, self.cache / MODELS)
        if self.ranks.leads:
            verified = self.cache / VERIFIED
            self.base_files = BaseFiles(directory, manifest, verified, self.lease.check)
        base = self._base(directory, mode)
        pack_if_able(base)
        self.mode = mode.on(base)
        self.lease.check()
        self.context = context_length(base, self.tokenizer)
        self.base_parameters = base.num_parameters()
        self.vocabulary = base.config.get_text_config().vocab_size
        if spec.gradient_checkpointing:
            checkpoint_activations(base)
        # The same adapter in every rank, and then another dropout in each.
        torch.manual_seed(self.hyperparameters.seed)
        self.model: PeftModel = attach_adapter(base, self.hyperparameters, spec.base_model)
        forget_loading()
        self.peak_memory = PeakMemory(self.ranks.device)
        if not self.ranks.leads:
            torch.manual_seed(self.hyperparameters.seed + (self.ranks.rank << 32))
        self._describe_model()

    def _dtype(self) -> torch.dtype:
        """The dtype that was approved, also where this machine has to emulate it."""
        best = choose_dtype(self.ranks.device)
        if self.spec.dtype is None:
            return best
        approved = torch_dtype(self.spec.dtype)
        if approved is torch.bfloat16 and best is not approved:
            self.reporter.log(
                "the job was approved in bf16, which this machine emulates: it trains slower than "
                "estimated",
                "WARNING",
            )
        return approved

    def _base(self, directory: Path, mode: ExecutionMode) -> PreTrainedModel:
        """The base model; also sets its tokenizer."""
        spec, device = self.spec, self.ranks.device
        if self.warm_base is not None:
            loaded = self.warm_base.take(
                directory, spec.base_manifest_sha256, mode.torch_dtype, spec.precision
            )
            if loaded is not None:
                self.tokenizer, base = loaded
                return base.to(device)  # pyright: ignore[reportArgumentType]  # see load_base
        self.tokenizer = load_tokenizer(directory)
        self.lease.check()
        return load_base(directory, mode.torch_dtype, device, spec.precision)

    def _describe_model(self) -> None:
        held = "4-bit NF4, computing" if self.spec.precision is Precision.NF4 else "held"
        mode = self.mode
        self.reporter.log(
            f"base {self.spec.base_model} on {mode.device}, {held} in {mode.dtype}, "
            f"adapter in float32; ranks: {mode.ranks}, threads: {mode.threads}; "
            f"{self.model.get_nb_trainable_parameters()[0]:,} trainable parameters"
        )

    def _prepare(self) -> None:
        """Dataset preparation: fetch, render, split, plan; with a checkpoint, its state."""
        self._enter(Phase.DATASET_PREP)
        self._render()
        self.plan = self._planned()
        self.training = Training(
            self.model,
            self.plan,
            self.dataset.train,
            self.hyperparameters,
            self.ranks,
            self._ends,
        )
        self._compile_if_long()
        self._make_deterministic()
        self.checkpoints.begin(self.model, self.training.optimizer, self.plan, self.mode)
        self.divergence = Divergence(self.vocabulary, self.progress)
        held_out = HeldOut(self.dataset.held_out, self.plan, self.ranks)
        self.evaluations = Evaluations(
            self.spec, held_out, self.reporter, self.lease, self.progress, self._ends
        )
        self.sampling = Sampling(
            self.renderer,
            self.dataset.question,
            self.dataset.held_out,
            self.ranks.device,
        )
        self._describe(self.dataset)
        if self.ranks.leads:
            self.base_files.require()

    def _render(self) -> None:
        """The examples, as the base's chat template writes them on the day of the approval."""
        limit = min(self.hyperparameters.max_sequence_length or self.context, self.context)
        self.renderer = Renderer(self.tokenizer, limit, self.spec.approved_on)
        if self.renderer.uses_fallback:
            self.reporter.log(
                "the base has no chat template: using a ChatML-like one, which is stored with the "
                f"adapter as {CHAT_TEMPLATE}",
                "WARNING",
            )
        self.dataset, rendered = read(
            self.spec, self.artifacts, self.scratch, self.renderer, self.lease.check
        )
        self.reporter.log(f"{rendered}; limit {limit} tokens")

    def _planned(self) -> Plan:
        hyperparameters = self.hyperparameters
        return Plan(
            lengths=tuple(len(example.input_ids) for example in self.dataset.train),
            epochs=hyperparameters.epochs,
            micro_batch_size=hyperparameters.micro_batch_size,
            gradient_accumulation=hyperparameters.gradient_accumulation,
            seed=hyperparameters.seed,
            ranks=self.spec.approved_gpu_count or self.spec.gpu_count,
            split=self.spec.micro_batch_split,
            batch_tokens=self.spec.batch_tokens or 0,
            content_sha256=content_sha256(self.dataset.train),
        )

    def _compile_if_long(self) -> None:
        """Choose compiled or eager layers; a job that is resumed keeps what it had, if it can."""
        compiled, why, begins = self.mode.compiled, self.why_eager, self.progress.step == 0
        work = self.base_parameters * self.plan.tokens
        if compiled and begins and work < COMPILED_WORK:
            compiled = False
            why = f"{self.plan.tokens:,} tokens of a base of this size do not make up for compiling"
        elif not compiled and why is None:
            why = "as the checkpoint was made"
        if compiled and (failure := self.training.compile(self.lease.check)) is not None:
            compiled, why = False, f"the compiler failed: {failure}"
        self.mode = self.mode.model_copy(update={"compiled": compiled})
        self.reporter.log("layers are compiled" if compiled else f"layers are eager: {why}")

    def _make_deterministic(self) -> None:
        """A GPU adds in one order if it is told to; a CPU does anyway."""
        if self.ranks.device.type != "cuda":
            return
        failure = self.training.make_deterministic()
        self.mode = self.mode.model_copy(update={"deterministic": failure is None})
        if failure is not None:
            self.reporter.log(
                f"no two runs of a step have the same last digits on this GPU: {failure}", "WARNING"
            )

    def _describe(self, dataset: Dataset) -> None:
        self.reporter.update(
            total_steps=self.plan.total_steps,
            step=self.progress.step,
            trained_tokens=self.progress.trained_tokens,
            train_examples=len(dataset.train),
            eval_examples=len(dataset.held_out),
        )
        self.reporter.log(
            f"{len(dataset.train)} examples to train on, {len(dataset.held_out)} held out; "
            f"{self.plan.total_steps} steps, {self.plan.steps_per_epoch} an epoch"
        )

    def _train(self) -> None:
        """Training: optimizer steps, and a checkpoint where one is due and at the end."""
        self._enter(Phase.TRAINING)
        while self.progress.step < self.plan.total_steps:
            step = self.training.step(self.progress.step)
            if step is None:
                self._stop()
                continue
            self._take(step)
            last = self.progress.step == self.plan.total_steps
            # After the last step comes the evaluation of the end.
            if self.evaluations.due and not last:
                self.evaluations.between(self.model)
            if self.checkpoints.due or last:
                self._save(last=last)
        self.checkpoints.flush()

    def _ends(self) -> bool:
        """Between two micro batches: note progress; whether the segment has to end, says rank 0."""
        self.lease.progress()
        return self.ranks.agree(self.lease.outcome is not None)

    def _stop(self) -> None:
        """Save the last step that was done, and leave; the one that was not is as if never begun.

        All ranks save, for each has its random state to give; then rank 0 leaves, and the end of
        the others is its business. If more time was paid for meanwhile, all go on.
        """
        if self.divergence.suspect:
            self.reporter.log(
                f"step {self.progress.step} is saved as it is, to go on judging its loss, which is "
                f"above {self.divergence.line}",
                "WARNING",
            )
        self.checkpoints.save(beside=False)
        self.lease.check()

    def _save(self, *, last: bool) -> None:
        """Save a checkpoint, but not of a run that may be diverging: the last good one stays."""
        if self.divergence.suspect:
            self.reporter.log(
                f"step {self.progress.step} is not saved: its loss is above {self.divergence.line}",
                "WARNING",
            )
            return
        sampled = self.ranks.leads and (last or self.sampling.due)
        self.checkpoints.save(self._sample() if sampled else None, beside=not last)

    def _sample(self) -> Sample | None:
        """The answer to the fixed prompt at this step, unless the segment has to end.

        What goes wrong here, a lack of memory above all, is no reason to lose the checkpoint.
        """
        began = time.monotonic()
        try:
            sample = self.sampling.sample(self.model, lambda: self.lease.outcome is not None)
        except Exception as error:  # noqa: BLE001  # whatever it is, training does not need it
            self.reporter.log(f"the fixed prompt has no answer here: {error!r}", "WARNING")
            return None
        self.lease.progress()
        if sample is not None:
            seconds = time.monotonic() - began
            self.reporter.log(f"the fixed prompt is answered in {seconds:.2f} s", "DEBUG")
        return sample

    def _take(self, step: Step) -> None:
        """Count a step that was done, and tell."""
        progress = self.progress
        progress.take(step, self.plan.total_steps)
        peak_memory_bytes = self.peak_memory.bytes
        self.reporter.update(
            step=progress.step,
            trained_tokens=progress.trained_tokens,
            train_loss=step.loss,
            tokens_per_second=progress.tokens_per_second,
            peak_memory_bytes=peak_memory_bytes,
        )
        self.reporter.measure(
            StepMeasured(
                account_id=self.spec.account_id,
                job_id=self.spec.job_id,
                segment=self.spec.segment,
                step=progress.step,
                total_steps=self.plan.total_steps,
                train_loss=step.loss,
                smoothed_loss=progress.smoothed_loss.value,
                learning_rate=step.learning_rate,
                tokens=step.tokens,
                tokens_per_second=step.tokens / step.seconds,
                elapsed_seconds=self.lease.clock.elapsed(),
                peak_memory_bytes=peak_memory_bytes,
                measured_at=datetime.now(UTC),
            )
        )
        self.divergence.take(step.loss)

    def _evaluate(self) -> None:
        """Evaluation on the held-out examples, without and with the adapter."""
        self._enter(Phase.EVALUATION)
        evaluation = self.evaluations.conclude(self.model)
        self.divergence.conclude(evaluation.loss_before, evaluation.loss_after)
        peaks = self.ranks.gather(torch.tensor([self.peak_memory.bytes]))
        self.reporter.update(
            now=True, evaluation=evaluation, peak_memory_bytes=int(peaks.max().item())
        )
        self._compare_memory(int(peaks.max().item()))
        best_step, best = self.progress.best_step, self.progress.best_eval_loss
        if best is not None and best < evaluation.loss_after:
            self.reporter.log(
                f"the checkpoint of step {best_step} has a lower held-out loss ({best:.4f}) than "
                f"the final state ({evaluation.loss_after:.4f}), which is what is registered",
                "WARNING",
            )

    def _compare_memory(self, peak_bytes: int) -> None:
        """Log the measured peak beside the one that was predicted, which is of the same things."""
        if (predicted := self.spec.required_bytes) is None:
            return
        device = self.ranks.device.type
        kind = "GPU memory" if device == "cuda" else "host memory, without the program itself"
        self.reporter.log(
            f"peak of {kind}: {gib(peak_bytes):g} GiB measured, {gib(predicted):g} GiB predicted",
            "WARNING" if peak_bytes > predicted else "INFO",
        )

    def _register(self) -> None:
        """Registering: the adapter as plain PEFT, in the artifact store.

        Its card and its provenance are the scheduler's to write, who knows the job's whole story.
        """
        self._enter(Phase.REGISTER)
        directory = self.scratch / "adapter"
        save_adapter(self.model, directory)
        if self.renderer.uses_fallback:
            (directory / CHAT_TEMPLATE).write_text(self.renderer.template.source)
        manifest = self.artifacts.put_directory(self.spec.adapter_prefix, directory)
        self.reporter.update(
            adapter_ref=self.spec.adapter_prefix, adapter_manifest_sha256=manifest.sha256
        )

    def _enter(self, phase: Phase) -> None:
        """Begin a phase, unless the segment has to end before."""
        try:
            self.lease.check()
        except SegmentStopped:
            self.reporter.log(f"ending before {phase.value}")
            raise
        self.reporter.enter(phase)
