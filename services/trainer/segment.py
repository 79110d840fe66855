"""One segment of a job, from its spec to its outcome: load, prepare, train, evaluate, register."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftModel

from domain.estimate import Precision
from domain.phases import Phase
from infrastructure.artifacts import Artifacts
from infrastructure.reports import Checkpoint, Evaluation, SegmentSpec, StepMeasured
from services.trainer import checkpoint
from services.trainer.adapter_card import write_card
from services.trainer.dataset import Dataset, fetch, prepare
from services.trainer.evaluation import evaluate
from services.trainer.examples import Renderer
from services.trainer.lease import Lease, SegmentStopped
from services.trainer.model import (
    attach_adapter,
    checkpoint_activations,
    choose_dtype,
    context_length,
    load_base,
    load_tokenizer,
    pad_id,
    require_base,
    save_adapter,
)
from services.trainer.plan import Plan
from services.trainer.ranks import Ranks
from services.trainer.reporter import Level
from services.trainer.training import Step, Training


class Voice(Protocol):
    """Where a segment says what it does; see Reporter."""

    def enter(self, phase: Phase) -> None:
        """Begin a phase."""
        ...

    def update(self, *, now: bool = False, **fields: Any) -> None:
        """Change fields of the cumulative report."""
        ...

    def measure(self, measured: StepMeasured) -> None:
        """Tell what an optimizer step measured."""
        ...

    def saved(self, checkpoint: Checkpoint) -> None:
        """Tell of a checkpoint that became durable."""
        ...

    def log(self, text: str, level: Level = "INFO") -> None:
        """Write log lines."""
        ...


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
        reporter: Voice,
        lease: Lease,
        ranks: Ranks,
    ) -> None:
        self.spec, self.hyperparameters = spec, spec.hyperparameters
        self.artifacts, self.models = artifacts, scratch / "models"
        self.scratch = scratch if ranks.leads else scratch / f"rank-{ranks.rank}"
        self.scratch.mkdir(exist_ok=True)
        self.reporter, self.lease, self.ranks = reporter, lease, ranks
        self.step = 0  # optimizer steps done, over all segments
        self.saved_step = 0  # of the newest checkpoint
        self.trained_tokens = 0
        self.loss_sum, self.loss_tokens = 0.0, 0  # since the newest checkpoint
        self.segment_tokens, self.segment_seconds = 0, 0.0

    def run(self) -> None:
        """Run every phase; raises SegmentStopped, or whatever went wrong."""
        self._load()
        self._prepare()
        self._train()
        evaluation = self._evaluate()
        self.ranks.leave()
        if self.ranks.leads:
            self._register(evaluation)

    def _load(self) -> None:
        """Model load: tokenizer, base model and a fresh adapter; with a checkpoint, its files."""
        spec = self.spec
        self._enter(Phase.MODEL_LOAD)
        self.dtype, self.resumed = choose_dtype(self.ranks.device), None
        if spec.resume_from is not None:
            self.resumed, position = checkpoint.fetch(
                self.artifacts, spec.resume_from, self.scratch
            )
            self.dtype = getattr(torch, position.dtype)
            self._continue_from(position)
        self.lease.check()
        require_base(self.artifacts, spec.base_ref, spec.base_manifest_sha256)
        with self.ranks.leader_first():
            directory = self.artifacts.local_directory(spec.base_ref, self.models)
        self.tokenizer = load_tokenizer(directory)
        self.lease.check()
        base = load_base(directory, self.dtype, self.ranks.device, spec.precision)
        self.lease.check()
        self.context = context_length(base, self.tokenizer)
        if spec.gradient_checkpointing:
            checkpoint_activations(base)
        # The same adapter in every rank, and then another dropout in each.
        torch.manual_seed(self.hyperparameters.seed)
        self.model: PeftModel = attach_adapter(base, self.hyperparameters, spec.base_model)
        if not self.ranks.leads:
            torch.manual_seed(self.hyperparameters.seed + (self.ranks.rank << 32))
        self._describe_model()

    def _describe_model(self) -> None:
        held = "4-bit NF4, computing" if self.spec.precision is Precision.NF4 else "held"
        self.reporter.log(
            f"base {self.spec.base_model} on {self.ranks.device.type}, {held} in {self.dtype}, "
            f"adapter in float32; ranks: {self.ranks.count}, threads: {torch.get_num_threads()}; "
            f"{self.model.get_nb_trainable_parameters()[0]:,} trainable parameters"
        )

    def _continue_from(self, position: checkpoint.Position) -> None:
        """Take up the numbers of a checkpoint; raises CheckpointMismatch."""
        position.require_same_job(self._position(0.0))
        self.step = self.saved_step = position.step
        self.trained_tokens = position.trained_tokens
        self.reporter.log(f"resumed at step {position.step} from {self.spec.resume_from}")
        if position.threads != torch.get_num_threads():
            self.reporter.log(
                f"the checkpoint was made with {position.threads} threads, this segment has "
                f"{torch.get_num_threads()}: losses may differ in the last digits",
                "WARNING",
            )

    def _prepare(self) -> None:
        """Dataset preparation: fetch, render, split, plan."""
        self._enter(Phase.DATASET_PREP)
        hyperparameters = self.hyperparameters
        limit = min(hyperparameters.max_sequence_length or self.context, self.context)
        self.renderer = Renderer(self.tokenizer, limit)
        if self.renderer.uses_fallback:
            self.reporter.log(
                "the base has no chat template: using a ChatML-like one, which is stored with the "
                "adapter as chat_template.jinja",
                "WARNING",
            )
        path = fetch(
            self.artifacts,
            self.spec.dataset_ref,
            self.spec.dataset_sha256,
            self.scratch / "dataset.jsonl",
        )
        self.dataset, rendered = prepare(
            path, self.renderer, hyperparameters.seed, self.lease.check
        )
        self.reporter.log(f"{rendered}; limit {limit} tokens")
        self.plan = Plan(
            lengths=tuple(len(example.input_ids) for example in self.dataset.train),
            epochs=hyperparameters.epochs,
            micro_batch_size=hyperparameters.micro_batch_size,
            gradient_accumulation=hyperparameters.gradient_accumulation,
            seed=hyperparameters.seed,
            ranks=self.ranks.count,
        )
        self._describe(self.dataset)

    def _describe(self, dataset: Dataset) -> None:
        self.reporter.update(
            total_steps=self.plan.total_steps,
            step=self.step,
            trained_tokens=self.trained_tokens,
            train_examples=len(dataset.train),
            eval_examples=len(dataset.held_out),
        )
        self.reporter.log(
            f"{len(dataset.train)} examples to train on, {len(dataset.held_out)} held out; "
            f"{self.plan.total_steps} steps, {self.plan.steps_per_epoch} an epoch"
        )

    def _train(self) -> None:
        """Training: optimizer steps, a checkpoint every `save_steps` and at the end."""
        self._enter(Phase.TRAINING)
        training = Training(
            self.model,
            self.plan,
            self.dataset.train,
            self.hyperparameters,
            pad_id(self.tokenizer),
            self.ranks,
            self._ends,
        )
        if self.resumed is not None:
            checkpoint.restore(self.resumed, self.model, training.optimizer, self.ranks)
        while self.step < self.plan.total_steps:
            step = training.step(self.step)
            if step is None:
                self._stop(training)
                continue
            self._take(step)
            if self.step % self.hyperparameters.save_steps == 0:
                self._save(training)
        self._save(training)

    def _ends(self) -> bool:
        """Between two micro batches: note progress; whether the segment has to end, says rank 0."""
        self.lease.progress()
        return self.ranks.agree(self.lease.outcome is not None)

    def _stop(self, training: Training) -> None:
        """Save the last step that was done, and leave; the one that was not is as if never begun.

        All ranks save, for each has its random state to give; then rank 0 leaves, and the end of
        the others is its business. If more time was paid for meanwhile, all go on.
        """
        self._save(training)
        self.lease.check()

    def _take(self, step: Step) -> None:
        """Count a step that was done, and tell."""
        self.step += 1
        self.trained_tokens += step.tokens
        self.loss_sum += step.loss * step.label_tokens
        self.loss_tokens += step.label_tokens
        self.segment_tokens += step.tokens
        self.segment_seconds += step.seconds
        self.reporter.update(
            step=self.step,
            trained_tokens=self.trained_tokens,
            train_loss=step.loss,
            tokens_per_second=self.segment_tokens / self.segment_seconds,
        )
        self.reporter.measure(
            StepMeasured(
                account_id=self.spec.account_id,
                job_id=self.spec.job_id,
                segment=self.spec.segment,
                step=self.step,
                total_steps=self.plan.total_steps,
                train_loss=step.loss,
                learning_rate=step.learning_rate,
                tokens=step.tokens,
                tokens_per_second=step.tokens / step.seconds,
                elapsed_seconds=self.lease.clock.elapsed(),
                measured_at=datetime.now(UTC),
            )
        )

    def _position(self, train_loss: float) -> checkpoint.Position:
        return checkpoint.Position(
            step=self.step,
            trained_tokens=self.trained_tokens,
            train_loss=train_loss,
            dataset_sha256=self.spec.dataset_sha256,
            base_model=self.spec.base_model,
            hyperparameters=self.hyperparameters,
            dtype=str(self.dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
            precision=self.spec.precision,
            ranks=self.ranks.count,
        )

    def _save(self, training: Training) -> None:
        """Save a checkpoint of this step, unless there is one."""
        if self.step == self.saved_step:
            return
        position = self._position(self.loss_sum / self.loss_tokens)
        random = checkpoint.random_states(self.ranks)
        self.saved_step, self.loss_sum, self.loss_tokens = self.step, 0.0, 0
        if self.ranks.leads:
            self._store(position, training.optimizer, random)

    def _store(
        self,
        position: checkpoint.Position,
        optimizer: torch.optim.Optimizer,
        random: dict[str, torch.Tensor],
    ) -> None:
        ref = f"{self.spec.checkpoint_prefix}/step-{position.step:06d}"
        manifest = checkpoint.save(
            self.artifacts, ref, self.scratch, self.model, optimizer, position, random
        )
        self.lease.progress()
        self.reporter.saved(
            Checkpoint(
                ref=ref,
                manifest_sha256=manifest.sha256,
                step=position.step,
                train_loss=position.train_loss,
                elapsed_seconds=self.lease.clock.elapsed(),
                total_bytes=manifest.total_bytes,
            )
        )

    def _evaluate(self) -> Evaluation:
        """Evaluation on the held-out examples, without and with the adapter."""
        self._enter(Phase.EVALUATION)
        evaluation = evaluate(
            self.model,
            self.dataset.held_out,
            self.hyperparameters.micro_batch_size,
            pad_id(self.tokenizer),
            self.ranks,
            self.lease.check,
        )
        self.reporter.update(now=True, evaluation=evaluation)
        self.reporter.log(
            f"held-out loss {evaluation.loss_before:.4f} before, {evaluation.loss_after:.4f} after"
        )
        return evaluation

    def _register(self, evaluation: Evaluation) -> None:
        """Registering: the adapter as plain PEFT, with its card, in the artifact store."""
        self._enter(Phase.REGISTER)
        directory = self.scratch / "adapter"
        save_adapter(self.model, directory)
        template = self.renderer.template if self.renderer.uses_fallback else None
        write_card(directory, self.spec, evaluation, len(self.dataset.train), template)
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
