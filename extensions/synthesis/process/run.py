"""One synthesis in the memory of the process: its prompts and its attempts so far."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice

from pydantic import ValidationError

from domain.core.event_log import EventLog
from domain.datasets.dataset import Dataset, DatasetStatus
from extensions.synthesis.domain.demonstrations import DEMONSTRATIONS, Message
from extensions.synthesis.domain.price import Pricing, PromptBytes
from extensions.synthesis.domain.prompts import Prompts, Seed
from extensions.synthesis.domain.request import SynthesisRequest
from extensions.synthesis.domain.synthesis import Synthesis, SynthesisFailure
from extensions.synthesis.process.answers import messages_of
from extensions.synthesis.process.attempts import (
    Attempt,
    AttemptStore,
    BatchDamaged,
    Outcome,
    accepted_in,
)
from extensions.synthesis.process.duplicates import SeenExamples
from extensions.synthesis.seeds import seed_examples
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.exchange import read
from infrastructure.http.ndjson import lines_of


class CannotContinue(Exception):
    """The stored files of a synthesis are missing or changed."""

    def __init__(self, reason: SynthesisFailure) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class Run:
    """The prompts, the outcomes of attempts by number, and digests of examples, not their texts."""

    prompts: Prompts
    store: AttemptStore
    seen: SeenExamples
    outcomes: dict[int, Outcome] = field(default_factory=dict[int, Outcome])
    refused_parameters: set[str] = field(default_factory=set[str])
    """Parameters that the external model refused since the process continued the run."""

    @property
    def fruitful(self) -> bool:
        """True if an attempt was accepted."""
        return Outcome.ACCEPTED in self.outcomes.values()

    @property
    def barren(self) -> int:
        """Attempts since the last accepted one."""
        newest = sorted(self.outcomes, reverse=True)
        accepted = (self.outcomes[each] is Outcome.ACCEPTED for each in newest)
        return next(
            (count for count, is_accepted in enumerate(accepted) if is_accepted), len(newest)
        )

    def add(self, attempts: Sequence[Attempt]) -> None:
        """Add the outcomes of a completed batch."""
        self.outcomes |= {each.number: each.outcome for each in attempts}

    def numbers(self, size: int) -> list[int]:
        """Return the numbers of the next attempts, which are in no completed batch."""
        return list(islice((each for each in count() if each not in self.outcomes), size))

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
        for batch in store.batches(synthesis.files):
            run.add(batch)
            for each in accepted_in(batch):
                assert each.messages is not None
                seen.add(each.messages)
    except (BatchDamaged, ValidationError) as error:
        raise CannotContinue(SynthesisFailure.BATCH_LOST) from error
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
