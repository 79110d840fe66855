"""Syntheses of the sample platform, in the states that their page shows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

from domain.billing.token_rates import TokenRates, TokenUsage
from domain.core.aggregate import Cause, because
from extensions.synthesis.domain.plan import Generator, SourceKind, SynthesisPlan
from extensions.synthesis.domain.price import CostRange
from extensions.synthesis.domain.request import SynthesisRequest, request_ref
from extensions.synthesis.domain.synthesis import Counts, StopReason, StoredFile, Synthesis
from extensions.synthesis.names import set_synthesis_name
from gateway.backend import Backend
from tests.builders.past_job import PastJob

REQUEST = SynthesisRequest(
    name="shop questions",
    instructions="Customers of an online shop ask about their orders.",
    topics=("returns", "delivery times", "invoices"),
)
CHATS = (
    ("Can I return shoes that I wore once?", "Yes, within 30 days, if they are clean."),
    ("How long does a delivery to Norway take?", "Usually five to seven days."),
    ("Where do I find my invoice?", "Open Orders and choose the order. The invoice is below it."),
)


def add(backend: Backend, job: PastJob) -> dict[str, str]:
    """Add syntheses of a job's account. Return their paths by name."""
    return SampleSyntheses(backend, job.account_id).add()


@dataclass(frozen=True)
class SampleSyntheses:
    """Adds syntheses of one account."""

    backend: Backend
    account_id: UUID

    def add(self) -> dict[str, str]:
        """Add a running, a paused and a reviewed synthesis. Return their paths by name."""
        running = self._approved(7)
        self._batch(running, Counts(accepted=84, invalid=9, rejected=21, duplicates=6))
        paused = self._approved(60)
        self._batch(paused, Counts(accepted=120, invalid=14, rejected=30, duplicates=9))
        with because(Cause("service:synthesis", str(uuid4()), datetime.now(UTC))):
            paused.pause(StopReason.BALANCE)
        self._commit(paused)
        reviewed = self._approved(60 * 20, examples=len(CHATS))
        self._batch(reviewed, Counts(accepted=len(CHATS), rejected=1))
        self._review(reviewed)
        shown = {"generating": running, "paused": paused, "reviewing": reviewed}
        return {f"synthesis {name}": f"/syntheses/{each.id}" for name, each in shown.items()}

    def _approved(self, minutes_ago: int, examples: int = 200) -> Synthesis:
        id = uuid4()
        ref = request_ref(self.account_id, id, REQUEST.sha256)
        self.backend.artifacts.put(ref, REQUEST.content)
        plan = SynthesisPlan(
            request_ref=ref,
            request_sha256=REQUEST.sha256,
            sources=(SourceKind.INSTRUCTIONS, SourceKind.TOPICS),
            seed_dataset_id=None,
            seed_dataset_sha256=None,
            examples=examples,
            turns=1,
            personas=True,
            generator=Generator(deployment_id=uuid4(), endpoint_id=None, model="llama-3.1-8b"),
            judged=True,
            least_score=6,
            answer_tokens=512,
            attempts=3,
            temperature=0.9,
            top_p=0.95,
            seed=0,
            similarity=0.7,
            rates=TokenRates(prompt_micros=100_000, completion_micros=400_000),
        )
        cost = CostRange(low_micros=20_000, high_micros=410_000)
        at = datetime.now(UTC) - timedelta(minutes=minutes_ago)
        with because(Cause("account:test", str(uuid4()), at)):
            made = Synthesis.approve(id, self.account_id, plan, cost, 410_000, None)
        self._commit(made)
        with self.backend.pool.connection() as connection:
            set_synthesis_name(connection, self.account_id, id, REQUEST.name)
        return made

    def _batch(self, run: Synthesis, counts: Counts) -> None:
        usage = TokenUsage(prompt_tokens=420 * counts.attempts, completion_tokens=25_000)
        with because(Cause("service:synthesis", str(uuid4()), datetime.now(UTC))):
            run.start_batch(counts.attempts, 100_000)
            run.complete_batch(counts, usage, self._stored(run, "batches/00001.jsonl", b""))
        self._commit(run)

    def _review(self, run: Synthesis) -> None:
        lines = [self._line(*each) for each in CHATS]
        origins: list[dict[str, Any]] = [
            {"example": number, "score": 7 + number % 3} for number in range(1, len(CHATS) + 1)
        ]
        header = json.dumps({"synthesis_id": str(run.id)})
        provenance = "\n".join([header, *map(json.dumps, origins)]) + "\n"
        examples = self._stored(run, "examples.jsonl", b"".join(lines))
        file = self._stored(run, "provenance.jsonl", provenance.encode())
        with because(Cause("service:synthesis", str(uuid4()), datetime.now(UTC))):
            run.finish_generation(examples, file)
        self._commit(run)

    @staticmethod
    def _line(question: str, answer: str) -> bytes:
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
        return json.dumps({"messages": messages}).encode() + b"\n"

    def _stored(self, run: Synthesis, name: str, content: bytes) -> StoredFile:
        ref = f"{run.home}/{name}"
        self.backend.artifacts.put(ref, content)
        return StoredFile(ref=ref, sha256=sha256(content).hexdigest())

    def _commit(self, run: Synthesis) -> None:
        with because(Cause("account:test", str(uuid4()), datetime.now(UTC))):
            self.backend.log.commit(run)
