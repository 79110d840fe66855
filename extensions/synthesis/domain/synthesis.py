"""A run that generates the examples of a dataset, from its approval to the finished dataset."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from eventsourcing.domain import event

from domain.billing.token_rates import TokenUsage
from domain.core.aggregate import Aggregate, Created, Event
from domain.core.errors import Invalid, WrongState
from domain.core.money import Toward, dollars
from domain.core.value import Value
from domain.datasets.dataset import LEAST_EXAMPLES, MadeDataset
from extensions.synthesis.domain.plan import SynthesisPlan
from extensions.synthesis.domain.price import CostRange


class SynthesisStatus(StrEnum):
    """States of a synthesis."""

    GENERATING = "generating"
    PAUSED = "paused"
    REVIEWING = "reviewing"  # all examples are generated, and wait for their review
    READY = "ready"  # the dataset was created
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """True if no command changes the state any more."""
        return self in (SynthesisStatus.READY, SynthesisStatus.CANCELLED, SynthesisStatus.FAILED)


class StopReason(StrEnum):
    """Reasons why a synthesis is paused."""

    OWNER = "owner"
    BALANCE = "balance"  # the balance does not pay for the next attempt
    BUDGET = "budget"
    MAX_COST = "max_cost"
    ENDPOINT = "endpoint"  # the model did not answer, or refused, several times in a row
    UNUSABLE = "unusable"  # the model answers, but nothing that can be an example
    SUSPENDED = "suspended"  # an operator suspended the account
    ERROR = "error"  # the work failed several times in a row, and the operator's log says why


class SynthesisFailure(StrEnum):
    """Reasons why a synthesis cannot continue."""

    REQUEST_LOST = "request_lost"  # the stored request is missing, or differs from its hash
    SEED_LOST = "seed_lost"  # the seed dataset was deleted
    BATCH_LOST = "batch_lost"  # a stored batch is missing, or differs from its hash


class Counts(Value):
    """Numbers of attempts so far, by outcome."""

    accepted: int = 0
    invalid: int = 0  # not of the required form
    rejected: int = 0  # by the judge
    duplicates: int = 0

    @property
    def attempts(self) -> int:
        """All attempts that have an outcome."""
        return self.accepted + self.invalid + self.rejected + self.duplicates

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            accepted=self.accepted + other.accepted,
            invalid=self.invalid + other.invalid,
            rejected=self.rejected + other.rejected,
            duplicates=self.duplicates + other.duplicates,
        )


class StoredFile(Value):
    """An artifact with its hash."""

    ref: str
    sha256: str


class SynthesisEvent(Event):
    """Base class of all events of a synthesis."""


class Synthesis(Aggregate):
    """A run that generates examples in batches. Events have counts, hashes and references only.

    The account holder approves, pauses, resumes, cancels and finishes it. The synthesis process
    records batches. Billing reserves and bills their tokens on the run's TokenMeter.
    """

    TOPIC: ClassVar[str] = "Synthesis"
    Event = SynthesisEvent

    class SynthesisApproved(SynthesisEvent, Created):
        """The account holder approved the plan, its rates and its cost range."""

        plan: SynthesisPlan
        estimate: CostRange
        max_cost_micros: int
        key_id: UUID | None  # API key against which the charges count

    class BatchStarted(SynthesisEvent):
        """The next attempts start. They cost at most this much."""

        batch: int
        attempts: int
        most_micros: int

    class BatchCompleted(SynthesisEvent):
        """The attempts of a batch ended. Numbers are those of all batches so far.

        The file has each attempt with its prompt's hash, its tokens, its outcome and its answer.
        """

        batch: int
        counts: Counts
        usage: TokenUsage
        file: StoredFile

    class SynthesisPaused(SynthesisEvent):
        """The run paused. A started batch still ends, and is billed."""

        reason: StopReason
        status: int | None  # last HTTP status of the endpoint, if that is the reason

    class SynthesisResumed(SynthesisEvent):
        """The account holder resumed the run, with a maximum cost."""

        max_cost_micros: int

    class SynthesisCancelled(SynthesisEvent):
        """The account holder ended the run. No dataset is created."""

    class SynthesisFailed(SynthesisEvent):
        """The run cannot continue."""

        reason: SynthesisFailure

    class GenerationStopped(SynthesisEvent):
        """The account holder ended the generation early, to review what there is."""

    class GenerationFinished(SynthesisEvent):
        """All examples and their provenance are stored, and wait for their review."""

        examples: StoredFile
        provenance: StoredFile

    class DatasetCreated(SynthesisEvent, MadeDataset):
        """The reviewed examples became a dataset."""

        examples: int
        edited: int
        removed: int

    @classmethod
    def approve(
        cls,
        synthesis_id: UUID,
        account_id: UUID,
        plan: SynthesisPlan,
        estimate: CostRange,
        max_cost_micros: int,
        key_id: UUID | None,
    ) -> Synthesis:
        """Approve a plan, and return the run."""
        return cls._create(
            cls.SynthesisApproved,
            id=synthesis_id,
            account_id=account_id,
            plan=plan,
            estimate=estimate,
            max_cost_micros=max_cost_micros,
            key_id=key_id,
        )

    @event(SynthesisApproved)
    def __init__(self, event: Synthesis.SynthesisApproved) -> None:
        self.account_id = event.account_id
        self.plan = event.plan
        self.estimate = event.estimate
        self.approved_max_micros = event.max_cost_micros
        self.max_cost_micros = event.max_cost_micros
        self.key_id = event.key_id
        self.status = SynthesisStatus.GENERATING
        self.pause_reason: StopReason | None = None
        self.stopped = False
        self.batch = 0
        self.open_batch = False
        self.batch_attempts = 0
        self.most_micros = 0
        self.counts = Counts()
        self.usage = TokenUsage()
        self.files: list[StoredFile] = []
        self.examples: StoredFile | None = None
        self.provenance: StoredFile | None = None
        self.dataset_id: UUID | None = None

    @property
    def home(self) -> str:
        """Artifact prefix of all files that the synthesis process stores."""
        return f"syntheses/{self.account_id}/{self.id}"

    @property
    def charged_micros(self) -> int:
        """Charge for all completed batches, in micro-dollars."""
        return self.plan.rates.charge_micros(self.usage)

    @property
    def left_micros(self) -> int:
        """Micro-dollars that the maximum cost leaves."""
        return max(0, self.max_cost_micros - self.charged_micros)

    @property
    def wants_attempts(self) -> bool:
        """True if the plan asks for more attempts: too few are accepted, and some are left."""
        missing = self.counts.accepted < self.plan.examples
        return missing and not self.stopped and self.counts.attempts < self.plan.most_attempts

    @property
    def needs_work(self) -> bool:
        """True if the synthesis process must do something."""
        return self.open_batch or self.status is SynthesisStatus.GENERATING

    def start_batch(self, attempts: int, most_micros: int) -> int:
        """Start the next batch, which costs at most this much. Return its number."""
        self._require(SynthesisStatus.GENERATING)
        assert not self.open_batch
        assert self.wants_attempts
        assert attempts > 0
        assert 0 <= most_micros <= self.left_micros
        self.trigger_event(
            self.BatchStarted, batch=self.batch + 1, attempts=attempts, most_micros=most_micros
        )
        return self.batch

    @event(BatchStarted)
    def _batch_started(self, batch: int, attempts: int, most_micros: int) -> None:
        self.batch = batch
        self.batch_attempts = attempts
        self.most_micros = most_micros
        self.open_batch = True

    def complete_batch(self, counts: Counts, usage: TokenUsage, file: StoredFile) -> None:
        """Record the outcomes of the open batch. Numbers are those of all batches so far."""
        assert self.open_batch
        assert counts.attempts >= self.counts.attempts
        self.trigger_event(
            self.BatchCompleted, batch=self.batch, counts=counts, usage=usage, file=file
        )

    @event(BatchCompleted)
    def _batch_completed(self, counts: Counts, usage: TokenUsage, file: StoredFile) -> None:
        self.open_batch = False
        self.counts = counts
        self.usage = usage
        self.files.append(file)

    def pause(self, reason: StopReason = StopReason.OWNER, status: int | None = None) -> None:
        """Pause the generation, unless it is paused or has ended."""
        if self.status is SynthesisStatus.PAUSED:
            return
        self._require(SynthesisStatus.GENERATING)
        self.trigger_event(self.SynthesisPaused, reason=reason, status=status)

    @event(SynthesisPaused)
    def _synthesis_paused(self, reason: StopReason) -> None:
        self.status = SynthesisStatus.PAUSED
        self.pause_reason = reason

    def resume(self, max_cost_micros: int | None = None) -> None:
        """Continue a paused run. `max_cost_micros` replaces the maximum cost, if given.

        Raise WrongState unless the run is paused. Raise Invalid if the maximum cost is below the
        charges and the highest cost of the open batch, or leaves nothing for the next attempt.
        """
        if self.status is SynthesisStatus.GENERATING and max_cost_micros is None:
            return
        self._require(SynthesisStatus.PAUSED)
        most = self.max_cost_micros if max_cost_micros is None else max_cost_micros
        if self.open_batch and most < (least := self.charged_micros + self.most_micros):
            raise Invalid(
                f"The maximum cost is {dollars(most)}, but the generation has cost "
                f"{dollars(self.charged_micros)}, and its requests in progress can cost "
                f"{dollars(self.most_micros)} more. Enter at least {dollars(least, Toward.UP)}, or "
                "wait until they end.",
                field="max_cost",
            )
        needs_more = self.wants_attempts and not self.plan.rates.free and not self.open_batch
        if most < self.charged_micros or (most == self.charged_micros and needs_more):
            raise Invalid(
                f"The maximum cost is {dollars(most)}, but the generation has cost "
                f"{dollars(self.charged_micros)}. Enter a higher amount.",
                field="max_cost",
            )
        self.trigger_event(self.SynthesisResumed, max_cost_micros=most)

    @event(SynthesisResumed)
    def _synthesis_resumed(self, max_cost_micros: int) -> None:
        self.status = SynthesisStatus.GENERATING
        self.pause_reason = None
        self.max_cost_micros = max_cost_micros

    def cancel(self) -> None:
        """End the run without a dataset. Raise WrongState if it has ended otherwise."""
        if self.status is SynthesisStatus.CANCELLED:
            return
        if self.status.is_final:
            raise WrongState(f"The synthesis is {self.status} and cannot be cancelled.")
        self.trigger_event(self.SynthesisCancelled)

    @event(SynthesisCancelled)
    def _synthesis_cancelled(self) -> None:
        self.status = SynthesisStatus.CANCELLED

    def fail(self, reason: SynthesisFailure) -> None:
        """End a run that cannot continue."""
        if not self.status.is_final:
            self.trigger_event(self.SynthesisFailed, reason=reason)

    @event(SynthesisFailed)
    def _synthesis_failed(self) -> None:
        self.status = SynthesisStatus.FAILED

    def stop(self) -> None:
        """End the generation early, with enough accepted examples, to review them."""
        if self.status not in (SynthesisStatus.GENERATING, SynthesisStatus.PAUSED):
            raise WrongState(f"The synthesis is {self.status}. Its generation has ended.")
        if self.counts.accepted < LEAST_EXAMPLES:
            raise WrongState(
                f"{self.counts.accepted} examples are accepted, and a dataset needs "
                f"{LEAST_EXAMPLES}. Wait for more, or cancel the synthesis."
            )
        if not self.stopped:
            self.trigger_event(self.GenerationStopped)

    @event(GenerationStopped)
    def _generation_stopped(self) -> None:
        self.stopped = True
        self.status = SynthesisStatus.GENERATING
        self.pause_reason = None

    def finish_generation(self, examples: StoredFile, provenance: StoredFile) -> None:
        """Record the stored examples. Their review begins."""
        self._require(SynthesisStatus.GENERATING)
        assert not self.open_batch
        assert not self.wants_attempts
        self.trigger_event(self.GenerationFinished, examples=examples, provenance=provenance)

    @event(GenerationFinished)
    def _generation_finished(self, examples: StoredFile, provenance: StoredFile) -> None:
        self.status = SynthesisStatus.REVIEWING
        self.examples = examples
        self.provenance = provenance

    def require_finishable(self, removed: int) -> None:
        """Raise WrongState unless the examples can become a dataset, without the removed ones."""
        self._require(SynthesisStatus.REVIEWING)
        left = self.counts.accepted - removed
        if left < LEAST_EXAMPLES:
            raise WrongState(
                f"{left} examples are left, and a dataset needs {LEAST_EXAMPLES}. Restore some, or "
                "start another synthesis."
            )

    def create_dataset(self, dataset_id: UUID, sha256: str, edited: int, removed: int) -> None:
        """Record the dataset of the reviewed examples, once. Raise WrongState in other states."""
        if self.dataset_id == dataset_id:
            return
        self.require_finishable(removed)
        self.trigger_event(
            self.DatasetCreated,
            dataset_id=dataset_id,
            sha256=sha256,
            examples=self.counts.accepted - removed,
            edited=edited,
            removed=removed,
        )

    @event(DatasetCreated)
    def _dataset_created(self, dataset_id: UUID) -> None:
        self.status = SynthesisStatus.READY
        self.dataset_id = dataset_id

    def _require(self, status: SynthesisStatus) -> None:
        if self.status is not status:
            raise WrongState(
                f"The synthesis is {self.status}. This command needs one in the state {status}."
            )
