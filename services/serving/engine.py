"""Answers chats with the models in memory: one thread computes, whoever asks waits elsewhere.

The thread goes from base to base and takes one step of each that has something to answer. Nothing
is imported for it before the first model comes.
"""

from __future__ import annotations

import logging
import os
import random
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition, Thread
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID, uuid4

from infrastructure.generation import GenerationAsked
from services.model_libraries import lean_imports
from services.serving.deployed import Served
from services.serving.refusals import AccountQueueFull, ContextExceeded, NotLoaded, QueueFull

if TYPE_CHECKING:
    from services.serving.batch import Running
    from services.serving.chat import Chat
    from services.serving.row import Listener, Row

log = logging.getLogger("engine")

NICENESS = 5
"""Of the computing thread: training is paid by the minute and comes first on shared cores. Threads
that answer requests keep their priority."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Hosting:
    """How models are held; see Settings."""

    rows: int = 32
    cache_bytes: int = 2 * 1024**3
    queue_limit: int = 64
    precision: str | None = None  # bf16 or fp32; None: what the machine is good at
    device: str = "cpu"
    threads: int | None = None  # of torch; None: its own choice
    niceness: int = NICENESS

    @property
    def account_limit(self) -> int:
        """Rows of one account that may wait: half of the queue, so that others find room."""
        return max(1, self.queue_limit // 2)


@dataclass(frozen=True)
class Attached:
    """A deployment in memory."""

    served: Served
    running: Running
    adapter: str | None  # its name on the base
    chat: Chat


@dataclass(frozen=True)
class GenerationHandle:
    """A chat that is being answered."""

    prompt_tokens: int
    rows: tuple[Row, ...]

    def cancel(self) -> None:
        """Nobody listens any more; what is answered already is not affected."""
        for row in self.rows:
            row.cancelled = True


class Engine:
    """Host of the models in memory."""

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting
        self._attached: dict[UUID, Attached] = {}
        self._running: dict[str, Running] = {}  # by the base's hash
        self._retired: list[tuple[Running, str | None]] = []  # that still answer what they began
        self._work = Condition()
        self._commands: deque[Callable[[], None]] = deque()
        self._ended = False
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def attach(self, served: Served) -> None:
        """Return once the model answers requests; raises CannotServe."""
        before = self._attached.get(served.deployment_id)
        if before is not None and before.served == served:
            return
        lean_imports()
        from services.serving.adapters import put_on, read_adapter
        from services.serving.chat import Chat

        running = self._running.get(served.base_sha256) or self._load(served)
        name: str | None = None
        try:
            if served.adapter_directory is not None:
                adapter, name = read_adapter(served.adapter_directory), uuid4().hex
                weights, mixing = running.base.weights, running.mixing
                self._do(lambda: put_on(weights, name, adapter, mixing))
            chat = Chat(running.base.tokenizer, served.adapter_directory)
        except BaseException:
            self._do(self._tidy)
            raise
        self._attached[served.deployment_id] = Attached(served, running, name, chat)
        with self._work:  # it may have been let go of, as nothing needed it until now
            self._running[served.base_sha256] = running
        self._retire(before)

    def detach(self, deployment_id: UUID) -> None:
        """Have a deployment answer no more requests; those that it answers now may end."""
        self._retire(self._attached.pop(deployment_id, None))

    def ask(
        self, asked: GenerationAsked, listener_of: Callable[[int], Listener]
    ) -> GenerationHandle:
        """Begin to answer; each choice has a listener. Raises Refused."""
        attached = self._attached.get(asked.deployment_id)
        if attached is None:
            raise NotLoaded
        tokens = attached.chat.tokens(asked.messages)
        context = attached.running.base.context
        if len(tokens) >= context:
            raise ContextExceeded(len(tokens), context)
        rows = tuple(
            self._row(attached, asked, tokens, choice, listener_of(choice))
            for choice in range(asked.choices)
        )
        with self._work:
            if self._attached.get(asked.deployment_id) is not attached:
                raise NotLoaded
            running = attached.running
            self._require_room(asked.account_id, len(rows), running.free)
            running.waiting.join(rows)
            self._work.notify()
        return GenerationHandle(len(tokens), rows)

    def close(self) -> None:
        """End the thread; what it answers now breaks off."""
        with self._work:
            self._ended = True
            self._work.notify()
        self._thread.join()

    def _require_room(self, account_id: UUID, count: int, free: int) -> None:
        """Raise QueueFull where all, or one account, would have more waiting than they may."""
        lines = [each.waiting for each in self._running.values()]
        hosting = self._hosting
        if sum(len(each) for each in lines) + count > hosting.queue_limit + free:
            raise QueueFull(hosting.queue_limit)
        if sum(each.of(account_id) for each in lines) + count > hosting.account_limit + free:
            raise AccountQueueFull(hosting.account_limit)

    def _row(
        self,
        attached: Attached,
        asked: GenerationAsked,
        tokens: list[int],
        choice: int,
        listener: Listener,
    ) -> Row:
        from services.serving.answer_text import AnswerText
        from services.serving.row import Row
        from services.serving.sampler import Drawing

        base, chat = attached.running.base, attached.chat
        room = base.context - len(tokens)
        seed = random.getrandbits(62) if asked.seed is None else asked.seed + choice
        return Row(
            account_id=asked.account_id,
            adapter=attached.adapter,
            tokens=list(tokens),
            max_tokens=room if asked.max_tokens is None else min(room, asked.max_tokens),
            ends=frozenset() if asked.ignore_end else chat.end_tokens | base.end_tokens,
            text=AnswerText(base.tokenizer, () if asked.ignore_end else (*asked.stop, *chat.stops)),
            drawing=Drawing(asked.temperature, asked.top_p, seed),
            listener=listener,
        )

    def _load(self, served: Served) -> Running:
        """A base that is not in memory yet."""
        import torch

        from services.serving.base_model import BaseModel, dtype_on
        from services.serving.batch import Limits, Running

        hosting = self._hosting
        if (threads := hosting.threads) is not None:
            self._do(lambda: torch.set_num_threads(threads))
        device = torch.device(hosting.device)
        dtype = dtype_on(device, hosting.precision)
        base = BaseModel.load(served.base_directory, dtype, device)
        log.info("%s is in memory, as %s on %s", served.base_model, dtype, device)
        running = Running(base, Limits(hosting.rows, hosting.cache_bytes))
        with self._work:
            self._running[served.base_sha256] = running
        return running

    def _retire(self, attached: Attached | None) -> None:
        """Let go of what a deployment had, once nothing is answered with it."""
        if attached is not None:
            self._retired.append((attached.running, attached.adapter))
            self._do(self._tidy)

    def _do(self, command: Callable[[], Result]) -> Result:
        """Have the computing thread do something between two steps; raises what it raises."""
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(command())
            except BaseException as error:  # noqa: BLE001  # it is the caller's
                future.set_exception(error)

        with self._work:
            self._commands.append(run)
            self._work.notify()
        return future.result()

    def _run(self) -> None:
        os.nice(
            self._hosting.niceness
        )  # on Linux it is the thread's own, and of those that it starts
        while True:
            with self._work:
                while not (self._commands or self._ended or self._busy()):
                    self._work.wait()
                if self._ended:
                    return
                commands = list(self._commands)
                self._commands.clear()
            for command in commands:
                command()
            for running in self._busy():
                self._step(running)

    def _busy(self) -> list[Running]:
        return [running for running in list(self._running.values()) if running.busy]

    def _step(self, running: Running) -> None:
        others = [each.accounts() for each in self._running.values() if each is not running]
        running.elsewhere = frozenset[UUID]().union(*others)
        try:
            running.step()
            if self._retired:
                self._tidy()
        except Exception as error:
            log.exception("a step failed; what it was to answer breaks off")
            running.fail(error)

    def _tidy(self) -> None:
        """Take off adapters that answer nothing more, and let go of bases that nobody needs."""
        from services.serving.adapters import take_off

        for running, adapter in list(self._retired):
            if running.uses(adapter):
                continue
            if adapter is not None:
                take_off(running.base.weights, adapter, running.mixing)
            self._retired.remove((running, adapter))
        needed = {id(attached.running) for attached in list(self._attached.values())}
        needed |= {id(running) for running, _ in self._retired}
        with self._work:
            for sha256, running in list(self._running.items()):
                if id(running) not in needed and not running.busy:
                    del self._running[sha256]
