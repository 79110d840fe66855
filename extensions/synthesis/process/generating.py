"""The generation of a synthesis: batches of attempts until enough examples are accepted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from uuid import UUID

from psycopg_pool import ConnectionPool

from domain.billing.account import Account
from domain.billing.token_meter import ReserveRefusal, TokenMeter
from domain.billing.token_rates import TokenUsage
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.core.identity import token_meter_id
from domain.deployments.deployment import Deployment
from extensions.synthesis.domain.demonstrations import Message
from extensions.synthesis.domain.plan import SynthesisPlan
from extensions.synthesis.domain.price import JUDGE_TOKENS, TEMPLATE_TOKENS
from extensions.synthesis.domain.prompts import (
    SCORE_SCHEMA,
    Drawn,
    chat_schema,
    longest_texts,
    prompt_sha256,
)
from extensions.synthesis.domain.synthesis import StopReason, Synthesis, SynthesisStatus
from extensions.synthesis.endpoint_rows import access_of
from extensions.synthesis.process.answers import Unusable, messages_of, read_chat, read_score
from extensions.synthesis.process.attempts import (
    Answer,
    Asked,
    Attempt,
    AttemptStore,
    Judgement,
    Outcome,
    counted,
)
from extensions.synthesis.process.models import (
    ChatModel,
    Connections,
    Question,
    RefusedByModel,
    Reply,
    Unavailable,
)
from extensions.synthesis.process.parameters import Parameters
from extensions.synthesis.process.run import CannotContinue, Run, load_run, prompt_bytes
from infrastructure.artifacts.store import DENIED, STORE_ERRORS, Artifacts
from infrastructure.postgres.store import Connection
from infrastructure.process.clock import Clock

BATCH_ATTEMPTS = 16
"""Most attempts of a batch. A batch has four events, and is stored as one file."""

TURN_BATCHES, TURN_LOADS = 4, 10
"""Batches of a turn while others wait, and its least time in loads of the run."""

UNUSABLE_ATTEMPTS = 8
"""Attempts after which a run without any accepted example pauses."""

BARREN_ATTEMPTS = 48
"""Attempts in a row without an accepted example after which a run with some pauses.

A small model can fail at a batch by chance: if the judge accepts one chat in four, a batch of 16
has none in 1% of cases.
"""

log = logging.getLogger("synthesis")


@dataclass(frozen=True)
class Pace:
    """Numbers of requests at a time and of retries, and pauses in seconds."""

    at_once: int = 8
    tries: int = 5
    first_pause: float = 1.0
    longest_pause: float = 60.0
    look: float = 0.5
    """Pause between two looks at the log, for a command or the reserve of a batch."""


class Interrupted(Exception):
    """The run was paused or ended before an attempt was complete."""


@dataclass
class Stop:
    """The reason to start no more attempts of a batch, once there is one."""

    event: asyncio.Event
    reason: StopReason | None = None
    status: int | None = None

    def because_of(self, reason: StopReason | None, status: int | None = None) -> None:
        """Stop the batch. The first reason stays."""
        if not self.event.is_set():
            self.reason, self.status = reason, status
            self.event.set()

    async def wait(self, seconds: float) -> None:
        """Wait for some seconds. Raise Interrupted if the batch stops."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.event.wait(), seconds)
        if self.event.is_set():
            raise Interrupted


class Generating:
    """Works on syntheses. Each call of `work` continues one, from its stored attempts."""

    def __init__(
        self,
        event_log: EventLog,
        clock: Clock,
        artifacts: Artifacts,
        pool: ConnectionPool[Connection],
        connections: Connections,
        pace: Pace = Pace(),
    ) -> None:
        self._log = event_log
        self._clock = clock
        self._artifacts = artifacts
        self._pool = pool
        self._connections = connections
        self._pace = pace

    async def work(
        self, synthesis_id: UUID, crowded: Callable[[], bool], completed: Callable[[], None]
    ) -> None:
        """Generate until the run pauses, ends or had its turn. Call `completed` per batch."""
        synthesis = await asyncio.to_thread(self._log.load, Synthesis, synthesis_id)
        if not synthesis.needs_work:
            return
        if synthesis.status.is_final or not synthesis.wants_attempts:
            await self._close(synthesis)
            synthesis = await asyncio.to_thread(self._log.load, Synthesis, synthesis_id)
        if synthesis.status.is_final:
            return
        began = monotonic()
        try:
            run = await asyncio.to_thread(load_run, self._log, self._artifacts, synthesis)
        except CannotContinue as error:
            reason = error.reason
            log.error("synthesis %s cannot continue: %s", synthesis_id, reason)
            await self._close(synthesis)
            await self._change(synthesis_id, "fail", lambda each: each.fail(reason))
            return
        loaded, batches = monotonic(), 0
        least_end = loaded + TURN_LOADS * (loaded - began)
        while synthesis.needs_work:
            if synthesis.open_batch:
                await self._batch(run, synthesis)
                batches += 1
                completed()
            elif batches >= TURN_BATCHES and monotonic() >= least_end and crowded():
                return
            elif synthesis.wants_attempts:
                await self._start(run, synthesis)
            else:
                await self._finish(run, synthesis)
            synthesis = await asyncio.to_thread(self._log.load, Synthesis, synthesis_id)

    async def give_up(self, synthesis_id: UUID) -> bool:
        """Pause a run whose work keeps failing. Complete its open batch with what is stored.

        Return True if the run needs no more work.
        If the store denies access, the batch stays open until a later call of `work` closes it.
        """
        with suppress(*DENIED):
            await self._close(await asyncio.to_thread(self._log.load, Synthesis, synthesis_id))

        def pause(found: Synthesis) -> None:
            if found.status is SynthesisStatus.GENERATING:
                found.pause(StopReason.ERROR)

        await self._change(synthesis_id, "give-up", pause)
        synthesis = await asyncio.to_thread(self._log.load, Synthesis, synthesis_id)
        return not synthesis.needs_work

    async def _start(self, run: Run, synthesis: Synthesis) -> None:
        missing = synthesis.plan.examples - synthesis.counts.accepted
        left = synthesis.plan.most_attempts - synthesis.counts.attempts
        numbers = run.numbers(min(BATCH_ATTEMPTS, missing, left))

        def start(found: Synthesis) -> None:
            if found.status is not SynthesisStatus.GENERATING or found.version != synthesis.version:
                return
            account = self._log.load(Account, found.account_id)
            room = min(found.left_micros, account.leasable_micros_for(found.key_id))
            attempts = most = needed = 0
            for number in numbers:
                needed = run.most_micros(number)
                if most + needed > room:
                    break
                attempts, most = attempts + 1, most + needed
            if account.suspension is not None:
                found.pause(StopReason.SUSPENDED)
            elif attempts:
                found.start_batch(attempts, most)
            elif found.left_micros < needed:
                found.pause(StopReason.MAX_COST)
            else:
                poor = not account.can_pay(needed)
                found.pause(StopReason.BALANCE if poor else StopReason.BUDGET)

        await self._change(synthesis.id, f"batch:{synthesis.batch + 1}", start)

    async def _batch(self, run: Run, synthesis: Synthesis) -> None:
        """Make the attempts of the open batch, as far as they are not stored, and complete it."""
        stop = Stop(asyncio.Event())
        if synthesis.status is not SynthesisStatus.GENERATING or synthesis.stopped:
            stop.because_of(None)
        watcher = asyncio.create_task(self._watch(synthesis.id, stop))
        attempts: list[Attempt] = []
        try:
            if await self._funded(synthesis, stop):
                attempts = await self._attempts(run, synthesis, stop)
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
        await self._complete(run, synthesis, attempts, stop)

    async def _funded(self, synthesis: Synthesis, stop: Stop) -> bool:
        """Wait until billing has reserved the price of the batch. Return False if it refuses."""
        if synthesis.most_micros == 0:
            return True
        id = token_meter_id(synthesis.id)
        while True:
            meter = await asyncio.to_thread(self._log.find, TokenMeter, id)
            if meter is not None and meter.batch >= synthesis.batch:
                break
            try:
                await stop.wait(self._pace.look)
            except Interrupted:
                return False
        if meter.has_open(synthesis.batch):
            return True
        poor = meter.refusal is ReserveRefusal.BALANCE
        stop.because_of(StopReason.BALANCE if poor else StopReason.BUDGET)
        return False

    async def _watch(self, synthesis_id: UUID, stop: Stop) -> None:
        while True:
            await asyncio.sleep(self._pace.look)
            found = await asyncio.to_thread(self._log.load, Synthesis, synthesis_id)
            if found.status is not SynthesisStatus.GENERATING or found.stopped:
                stop.because_of(None)
                return

    async def _attempts(self, run: Run, synthesis: Synthesis, stop: Stop) -> list[Attempt]:
        answers, done = await asyncio.to_thread(run.store.loose, set(run.outcomes))
        numbers = run.numbers(synthesis.batch_attempts)
        found = [done[number] for number in numbers if number in done]
        for each in found:
            if each.messages is not None and each.outcome is Outcome.ACCEPTED:
                run.seen.add(each.messages)
        open_numbers = iter([number for number in numbers if number not in done])
        try:
            attempting = Attempting(
                run,
                await self._model(run, synthesis),
                await self._asked(synthesis),
                stop,
                self._pace,
            )
        except RefusedByModel as error:
            log.info("synthesis %s: %s", synthesis.id, error)
            stop.because_of(StopReason.ENDPOINT, error.status)
            return found

        async def worker() -> None:
            for number in open_numbers:
                if stop.event.is_set():
                    return
                try:
                    found.append(await attempting.attempt(number, answers.get(number)))
                except Interrupted:
                    return
                except (Unavailable, RefusedByModel) as error:
                    log.info("synthesis %s: %s", synthesis.id, error)
                    stop.because_of(StopReason.ENDPOINT, error.status)
                    return

        async with asyncio.TaskGroup() as workers:
            for _ in range(self._pace.at_once):
                workers.create_task(worker())
        return found

    async def _close(self, synthesis: Synthesis) -> None:
        """Complete an open batch with its stored attempts, so that its reserve is released."""
        if not synthesis.open_batch:
            return
        store = AttemptStore(self._artifacts, synthesis)
        attempts = await asyncio.to_thread(store.of_open_batch, synthesis.files)
        new_counts, new_usage = counted(attempts)
        counts, usage = synthesis.counts + new_counts, synthesis.usage + new_usage
        file = await asyncio.to_thread(store.keep_batch, synthesis.batch, attempts)

        def complete(found: Synthesis) -> None:
            if found.open_batch and found.batch == synthesis.batch:
                found.complete_batch(counts, usage, file)

        await self._change(synthesis.id, f"complete:{synthesis.batch}", complete)
        with suppress(*STORE_ERRORS):
            await asyncio.to_thread(store.forget, attempts)

    async def _complete(
        self, run: Run, synthesis: Synthesis, attempts: list[Attempt], stop: Stop
    ) -> None:
        """Complete the open batch. Pause the run if the batch stopped, or if nothing is usable."""
        new_counts, new_usage = counted(attempts)
        counts, usage = synthesis.counts + new_counts, synthesis.usage + new_usage
        file = await asyncio.to_thread(run.store.keep_batch, synthesis.batch, attempts)
        reason = stop.reason
        run.add(attempts)
        most = BARREN_ATTEMPTS if run.fruitful else UNUSABLE_ATTEMPTS
        if reason is None and run.barren >= most:
            reason = StopReason.UNUSABLE

        def complete(found: Synthesis) -> None:
            if not found.open_batch or found.batch != synthesis.batch:
                return
            found.complete_batch(counts, usage, file)
            is_generating = found.status is SynthesisStatus.GENERATING
            if reason is not None and is_generating and found.wants_attempts:
                found.pause(reason, stop.status)

        await self._change(synthesis.id, f"complete:{synthesis.batch}", complete)
        with suppress(*STORE_ERRORS):  # these files are only copies now
            await asyncio.to_thread(run.store.forget, attempts)

    async def _finish(self, run: Run, synthesis: Synthesis) -> None:
        files = list(synthesis.files)
        header = {
            "synthesis_id": str(synthesis.id),
            "plan": synthesis.plan.model_dump(mode="json"),
            "batches": [each.model_dump() for each in files],
        }
        examples = await asyncio.to_thread(run.store.keep_examples, files)
        provenance = await asyncio.to_thread(run.store.keep_provenance, header, files)

        def finish(found: Synthesis) -> None:
            if found.status is SynthesisStatus.GENERATING and not found.open_batch:
                found.finish_generation(examples, provenance)

        await self._change(synthesis.id, "finish", finish)

    async def _model(self, run: Run, synthesis: Synthesis) -> ChatModel:
        generator = synthesis.plan.generator
        if generator.deployment_id is not None:
            return self._connections.deployed(generator.deployment_id, synthesis.account_id)
        assert generator.endpoint_id is not None
        endpoint_id = generator.endpoint_id

        def read() -> ChatModel:
            with self._pool.connection() as connection:
                access = access_of(connection, synthesis.account_id, endpoint_id)
            if access is None:
                raise RefusedByModel("The endpoint was deleted.")
            if access.key is None:
                raise RefusedByModel("The key of the endpoint is lost. Replace the key.")
            name = run.prompts.request.external_model or ""
            return self._connections.endpoint(access, name, run.refused_parameters)

        return await asyncio.to_thread(read)

    async def _asked(self, synthesis: Synthesis) -> Asked:
        """Return the model and parameters of all attempts, without prompt and seed."""
        plan = synthesis.plan
        weights: tuple[str, ...] = ()
        if plan.generator.deployment_id is not None:
            id = plan.generator.deployment_id
            served = (await asyncio.to_thread(self._log.load, Deployment, id)).weights
            adapter = () if served.adapter is None else (served.adapter.manifest_sha256,)
            weights = (served.base_manifest_sha256, *adapter)
        return Asked(
            prompt_sha256="",
            model=plan.generator.model or "external",
            weights_sha256=weights,
            temperature=plan.temperature,
            top_p=plan.top_p,
            seed=0,
        )

    async def _change(
        self, synthesis_id: UUID, command: str, change: Callable[[Synthesis], None]
    ) -> None:
        def attempt() -> None:
            id = f"{command}:{synthesis_id}"
            with because(Cause("service:synthesis", id, self._clock.now())):
                found = self._log.load(Synthesis, synthesis_id)
                change(found)
                self._log.commit(found)

        await asyncio.to_thread(self._log.retrying, attempt)


@dataclass(frozen=True)
class Attempting:
    """Makes the attempts of one batch."""

    run: Run
    model: ChatModel
    asked: Asked
    stop: Stop
    pace: Pace

    @property
    def plan(self) -> SynthesisPlan:
        """The approved plan."""
        return self.run.prompts.plan

    async def attempt(self, number: int, answer: Answer | None) -> Attempt:
        """Make an attempt, with its stored answer if there is one.

        Raise Unavailable, RefusedByModel or Interrupted. What is stored then is not asked again.
        """
        prompts, store = self.run.prompts, self.run.store
        drawn = prompts.drawn(number)
        if answer is None:
            answer = await self._answer(number, drawn)
            answer = await asyncio.to_thread(store.keep_answer, answer)
        try:
            turns = read_chat(answer.text, drawn.turns, self._longest(drawn))
        except Unusable as problem:
            return await self._keep(answer, Outcome.INVALID, problem=str(problem))
        messages = messages_of(turns, prompts.request.system)
        if self.run.seen.repeats(messages):
            return await self._keep(answer, Outcome.DUPLICATE, messages=messages)
        judgement = await self._judge(drawn, turns) if self.plan.judged else None
        if judgement is not None and (judgement.score or 0) < self.plan.least_score:
            return await self._keep(answer, Outcome.REJECTED, judgement, messages)
        is_new = self.run.seen.add(messages)
        outcome = Outcome.ACCEPTED if is_new else Outcome.DUPLICATE
        return await self._keep(answer, outcome, judgement, messages)

    def _longest(self, drawn: Drawn) -> dict[str, int] | None:
        if self.plan.generator.external:
            return None
        return longest_texts(drawn.turns, self.plan.answer_tokens)

    async def _answer(self, number: int, drawn: Drawn) -> Answer:
        plan, prompt = self.plan, self.run.prompts.write(drawn)
        reply = await self._ask(
            Question(
                messages=prompt,
                schema_name="chat",
                schema=chat_schema(drawn.turns, plan.answer_tokens),
                parameters=Parameters(
                    max_tokens=plan.answer_tokens,
                    temperature=plan.temperature,
                    top_p=plan.top_p,
                    seed=drawn.seed,
                ),
            )
        )
        parameters = {"prompt_sha256": prompt_sha256(prompt), "seed": drawn.seed}
        return Answer(
            number=number,
            drawn=drawn,
            asked=self.asked.model_copy(update=parameters),
            text=reply.text,
            finish_reason=reply.finish_reason,
            usage=_within(reply.usage, prompt, plan.answer_tokens),
        )

    async def _judge(self, drawn: Drawn, turns: list[Message]) -> Judgement:
        prompt = self.run.prompts.judge(drawn, turns)
        reply = await self._ask(
            Question(
                messages=prompt,
                schema_name="score",
                schema=SCORE_SCHEMA,
                parameters=Parameters(
                    max_tokens=JUDGE_TOKENS,
                    temperature=0.0,
                    top_p=1.0,
                    seed=drawn.seed,
                    may_vary=True,  # no record of a judgement names its temperature
                ),
            )
        )
        return Judgement(
            prompt_sha256=prompt_sha256(prompt),
            text=reply.text,
            usage=_within(reply.usage, prompt, JUDGE_TOKENS),
            score=read_score(reply.text),
        )

    async def _ask(self, question: Question) -> Reply:
        pause = self.pace.first_pause
        for left in reversed(range(self.pace.tries)):
            if self.stop.event.is_set():
                raise Interrupted
            try:
                return await self.model.ask(question)
            except Unavailable as error:
                wanted = error.retry_seconds or 0.0
                if left == 0 or wanted > self.pace.longest_pause:
                    raise
                await self.stop.wait(max(wanted, pause))
                pause = min(2 * pause, self.pace.longest_pause)
        raise AssertionError("the last try returns or raises")

    async def _keep(
        self,
        answer: Answer,
        outcome: Outcome,
        judgement: Judgement | None = None,
        messages: tuple[Message, ...] | None = None,
        problem: str | None = None,
    ) -> Attempt:
        attempt = Attempt(
            answer=answer, judgement=judgement, outcome=outcome, problem=problem, messages=messages
        )
        return await asyncio.to_thread(self.run.store.keep_attempt, attempt)


def _within(usage: TokenUsage, prompt: list[Message], answer_tokens: int) -> TokenUsage:
    return TokenUsage(
        prompt_tokens=min(usage.prompt_tokens, prompt_bytes(prompt) + TEMPLATE_TOKENS),
        completion_tokens=min(usage.completion_tokens, answer_tokens),
    )
