"""One synthesis in the memory of the process: its prompts and its attempts so far."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice

from pydantic import ValidationError

from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset, DatasetStatus
from domain.synthesis.demonstrations import DEMONSTRATIONS, Message
from domain.synthesis.price import Pricing, PromptBytes
from domain.synthesis.prompts import Prompts, Seed
from domain.synthesis.request import SynthesisRequest
from domain.synthesis.synthesis import Synthesis, SynthesisFailure
from infrastructure.artifacts import Artifacts
from infrastructure.exchange import read
from infrastructure.ndjson import lines_of
from infrastructure.synthesis_seeds import seed_examples
from services.synthesis.answers import messages_of
from services.synthesis.attempts import Attempt, AttemptStore, BatchDamaged, Outcome
from services.synthesis.duplicates import SeenExamples


class CannotContinue(Exception):
    """The stored files of a synthesis are missing or changed."""

    def __init__(self, reason: SynthesisFailure) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class Run:
    """The prompts, the finished attempts by number, and the examples so far."""

    prompts: Prompts
    store: AttemptStore
    seen: SeenExamples
    attempts: dict[int, Attempt] = field(default_factory=dict[int, Attempt])

    @property
    def accepted(self) -> list[Attempt]:
        """The accepted attempts, in the order of their numbers."""
        ordered = sorted(self.attempts.items())
        return [each for _, each in ordered if each.outcome is Outcome.ACCEPTED]

    @property
    def barren(self) -> int:
        """Attempts since the last accepted one."""
        ordered = sorted(self.attempts.items(), reverse=True)
        outcomes = (each.outcome is Outcome.ACCEPTED for _, each in ordered)
        return next(
            (count for count, is_accepted in enumerate(outcomes) if is_accepted), len(ordered)
        )

    def add(self, attempts: list[Attempt]) -> None:
        """Add the attempts of a completed batch."""
        self.attempts |= {each.number: each for each in attempts}

    def numbers(self, size: int) -> list[int]:
        """Return the numbers of the next attempts, which are in no completed batch."""
        return list(islice((each for each in count() if each not in self.attempts), size))

    def prompt(self, number: int) -> list[Message]:
        """Return the prompt of an attempt."""
        return self.prompts.write(self.prompts.drawn(number))

    def most_micros(self, number: int) -> int:
        """Return the highest price of an attempt."""
        size = prompt_bytes(self.prompt(number))
        pricing = Pricing(self.prompts.plan, PromptBytes(shortest=0, longest=0))
        return pricing.attempt_micros(size)


def prompt_bytes(messages: list[Message]) -> int:
    """Return the size of a prompt, which bounds its tokens."""
    return sum(len(each["content"].encode()) for each in messages)


def load_run(log: EventLog, artifacts: Artifacts, synthesis: Synthesis) -> Run:
    """Return a run as of its completed batches. Raise CannotContinue."""
    plan = synthesis.plan
    request = _request(artifacts, synthesis)
    # A run that only stores its examples needs no prompts.
    seeds = _seeds(log, artifacts, synthesis) if synthesis.wants_attempts else []
    store, seen = AttemptStore(artifacts, synthesis), SeenExamples(plan.similarity)
    for shown in _shown(seeds):
        seen.add(shown)
    run = Run(Prompts.of(plan, request, seeds), store, seen)
    try:
        run.add(store.completed(synthesis.files))
    except (BatchDamaged, ValidationError) as error:
        raise CannotContinue(SynthesisFailure.BATCH_LOST) from error
    for accepted in run.accepted:
        assert accepted.messages is not None
        seen.add(accepted.messages)
    return run


def _request(artifacts: Artifacts, synthesis: Synthesis) -> SynthesisRequest:
    try:
        content = artifacts.get(synthesis.plan.request_ref)
    except FileNotFoundError as error:
        raise CannotContinue(SynthesisFailure.REQUEST_LOST) from error
    if hashlib.sha256(content).hexdigest() != synthesis.plan.request_sha256:
        raise CannotContinue(SynthesisFailure.REQUEST_LOST)
    return read(SynthesisRequest, content)


def _seeds(log: EventLog, artifacts: Artifacts, synthesis: Synthesis) -> list[Seed]:
    plan = synthesis.plan
    if plan.seed_dataset_id is None:
        return []
    dataset = log.load(Dataset, plan.seed_dataset_id)
    if dataset.status is DatasetStatus.DELETED or dataset.sha256 != plan.seed_dataset_sha256:
        raise CannotContinue(SynthesisFailure.SEED_LOST)
    try:
        return seed_examples(lines_of(artifacts.stream(dataset.ref)), plan.seed)
    except FileNotFoundError as error:
        raise CannotContinue(SynthesisFailure.SEED_LOST) from error


def _shown(seeds: Iterable[Seed]) -> Iterator[Sequence[Message]]:
    """Yield the chats that prompts show, so that a copy is a duplicate."""
    for each in DEMONSTRATIONS:
        for last in range(len(each.turns)):
            yield messages_of(each.turns[: last + 1], "")
    for seed in seeds:
        yield messages_of(seed.turns, "")
