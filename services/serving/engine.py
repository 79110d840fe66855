"""The built-in engine: one thread computes a step of each base model in turn."""

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

from infrastructure.chat.generation import GenerationRequest
from services.model_libraries import lean_imports
from services.serving.deployed import Served
from services.serving.refusals import AccountQueueFull, ContextExceeded, NotLoaded, QueueFull

if TYPE_CHECKING:
    from services.serving.batch import Batch
    from services.serving.chat import Chat
    from services.serving.grammar import Grammars
    from services.serving.row import Listener, Row

log = logging.getLogger("engine")

NICENESS = 5
"""Niceness of the computing thread: billed training has priority on shared cores."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class EngineOptions:
    """Options of the engine. See Settings."""

    rows: int = 32  # maximum rows of a batch
    cache_bytes: int = 2 * 1024**3  # maximum size of the KV cache of one base model
    queue_limit: int = 64
    precision: str | None = None  # bf16 or fp32; None: the best for the machine
    device: str = "cpu"
    threads: int | None = None  # number of torch's threads; None: torch's default
    niceness: int = NICENESS

    @property
    def account_limit(self) -> int:
        """Maximum queued rows of one account: half of the queue, so that others have space."""
        return max(1, self.queue_limit // 2)


@dataclass(frozen=True)
class Attached:
    """A deployment in memory."""

    served: Served
    batch: Batch
    adapter: str | None  # its name on the base model; None: the base model alone
    chat: Chat
    grammars: Grammars


@dataclass(frozen=True)
class GenerationHandle:
    """A chat in progress."""

    prompt_tokens: int
    rows: tuple[Row, ...]

    def cancel(self) -> None:
        """Stop the answers in progress."""
        for row in self.rows:
            row.cancelled = True


class Engine:
    """An engine that keeps models in memory and answers chats with them."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._attached: dict[UUID, Attached] = {}
        self._batches: dict[str, Batch] = {}  # batches by manifest hash of the base model
        self._retired: list[tuple[Batch, str | None]] = []  # detached, but with rows in progress
        self._work = Condition()
        self._commands: deque[Callable[[], None]] = deque()
        self._ended = False
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def attach(self, served: Served) -> None:
        """Load a deployment. Return when it can serve requests, or raise CannotServe."""
        before = self._attached.get(served.deployment_id)
        if before is not None and before.served == served:
            return
        lean_imports()
        from services.serving.adapters import add_adapter, read_adapter
        from services.serving.chat import Chat
        from services.serving.grammar import Grammars

        batch = self._batches.get(served.base_sha256) or self._load(served)
        name: str | None = None
        try:
            if served.adapter_directory is not None:
                adapter, name = read_adapter(served.adapter_directory), uuid4().hex
                weights, token_adapters = batch.base.weights, batch.token_adapters
                self._do(lambda: add_adapter(weights, name, adapter, token_adapters))
            chat = Chat(batch.base.tokenizer, served.adapter_directory)
            base = batch.base
            grammars = Grammars(base.tokenizer, base.vocabulary, chat.end_tokens | base.end_tokens)
        except BaseException:
            self._do(self._tidy)
            raise
        self._attached[served.deployment_id] = Attached(served, batch, name, chat, grammars)
        with self._work:  # `_tidy` may have removed it in the meantime
            self._batches[served.base_sha256] = batch
        self._retire(before)

    def detach(self, deployment_id: UUID) -> None:
        """Stop accepting requests for a deployment. Answers in progress may finish."""
        self._retire(self._attached.pop(deployment_id, None))

    def generate(self, request: GenerationRequest, listener: Listener) -> GenerationHandle:
        """Start to answer a chat. Raise Refused if the engine cannot answer it."""
        attached = self._attached.get(request.deployment_id)
        if attached is None:
            raise NotLoaded
        tokens = attached.chat.tokens(request.messages, request.tools)
        context = attached.batch.base.context
        if len(tokens) >= context:
            raise ContextExceeded(len(tokens), context)
        rows = tuple(
            self._row(attached, request, tokens, choice, listener)
            for choice in range(request.choices)
        )
        with self._work:
            if self._attached.get(request.deployment_id) is not attached:
                raise NotLoaded
            batch = attached.batch
            self._require_room(request.account_id, len(rows), batch.free)
            batch.queue.join(rows)
            self._work.notify()
        return GenerationHandle(len(tokens), rows)

    def close(self) -> None:
        """End the thread. Stop the answers in progress."""
        with self._work:
            self._ended = True
            self._work.notify()
        self._thread.join()

    def _require_room(self, account_id: UUID, count: int, free: int) -> None:
        queues = [each.queue for each in self._batches.values()]
        options = self._options
        if sum(len(each) for each in queues) + count > options.queue_limit + free:
            raise QueueFull(options.queue_limit)
        if sum(each.of(account_id) for each in queues) + count > options.account_limit + free:
            raise AccountQueueFull(options.account_limit)

    def _row(
        self,
        attached: Attached,
        request: GenerationRequest,
        tokens: list[int],
        choice: int,
        listener: Listener,
    ) -> Row:
        from services.serving.response_text import ResponseText
        from services.serving.row import Row
        from services.serving.sampler import Sampler

        base, chat = attached.batch.base, attached.chat
        room = base.context - len(tokens)
        stops = () if request.ignore_end else (*request.stop, *chat.stops)
        seed = random.getrandbits(62) if request.seed is None else request.seed + choice
        schema = request.response_schema
        return Row(
            account_id=request.account_id,
            choice=choice,
            adapter=attached.adapter,
            tokens=list(tokens),
            max_tokens=room if request.max_tokens is None else min(room, request.max_tokens),
            ends=frozenset() if request.ignore_end else chat.end_tokens | base.end_tokens,
            text=ResponseText(base.tokenizer, stops),
            sampler=Sampler(request.temperature, request.top_p, seed),
            listener=listener,
            calls=chat.reader(request.tools),
            grammar=None if schema is None else attached.grammars.of(schema),
        )

    def _load(self, served: Served) -> Batch:
        import torch

        from services.serving.base_model import BaseModel, dtype_on
        from services.serving.batch import Batch

        options = self._options
        if (threads := options.threads) is not None:
            self._do(lambda: torch.set_num_threads(threads))
        device = torch.device(options.device)
        dtype = dtype_on(device, options.precision)
        base = BaseModel.load(served.base_directory, dtype, device)
        log.info("%s is in memory, as %s on %s", served.base_model, dtype, device)
        batch = Batch(base, options.rows, options.cache_bytes)
        with self._work:
            self._batches[served.base_sha256] = batch
        return batch

    def _retire(self, attached: Attached | None) -> None:
        if attached is not None:
            self._retired.append((attached.batch, attached.adapter))
            self._do(self._tidy)

    def _do(self, command: Callable[[], Result]) -> Result:
        """Run a command in the computing thread between two steps. Return its result."""
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(command())
            except BaseException as error:  # noqa: BLE001  # raised in the caller's thread
                future.set_exception(error)

        with self._work:
            self._commands.append(run)
            self._work.notify()
        return future.result()

    def _run(self) -> None:
        os.nice(self._options.niceness)  # on Linux, for this thread and the threads that it starts
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
            for batch in self._busy():
                self._step(batch)

    def _busy(self) -> list[Batch]:
        return [batch for batch in list(self._batches.values()) if batch.busy]

    def _step(self, batch: Batch) -> None:
        others = [each.accounts() for each in self._batches.values() if each is not batch]
        batch.busy_elsewhere = frozenset[UUID]().union(*others)
        try:
            batch.step()
            if self._retired:
                self._tidy()
        except Exception as error:
            log.exception("a step failed; its answers end")
            batch.fail(error)

    def _tidy(self) -> None:
        from services.serving.adapters import remove_adapter

        for batch, adapter in list(self._retired):
            if batch.uses(adapter):
                continue
            if adapter is not None:
                remove_adapter(batch.base.weights, adapter, batch.token_adapters)
            self._retired.remove((batch, adapter))
        needed = {id(attached.batch) for attached in list(self._attached.values())}
        needed |= {id(batch) for batch, _ in self._retired}
        with self._work:
            for sha256, batch in list(self._batches.items()):
                if id(batch) not in needed and not batch.busy:
                    del self._batches[sha256]
