"""The bus: streams and durable consumers in memory, which delay, repeat and reorder messages."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from nats.errors import NoServersError
from nats.js.api import Header
from nats.js.errors import BadRequestError, NotFoundError
from pydantic import BaseModel

from infrastructure.bus.streams import CONTROL, EVENTS, REPORTS, TELEMETRY
from infrastructure.rights import SYSTEM_API
from infrastructure.training.reports import PodSeen
from services.relay.batch import BATCH_ID, BATCH_SEQUENCE, ID_HEADER
from tests.simulation.control_plane.kernel import Kernel, Owner, Pause, Signal

BATCH = 500
DEDUPLICATION_SECONDS = 5.0
DELIVERY_SECONDS = 0.05
ACK_SECONDS = 10.0
"""Seconds after which the server delivers unacknowledged messages again."""
PROVISION_SECONDS = 5.0
"""Seconds until an operator creates a deleted stream again."""


@dataclass
class Message:
    """A stored message. `content` is what a consumer receives."""

    sequence: int
    subject: str
    data: bytes
    headers: dict[str, str]
    content: Any

    @property
    def seq(self) -> int:
        """Sequence number, as nats-py names it."""
        return self.sequence


@dataclass
class Stream:
    """Messages in the order of their sequence numbers."""

    name: str
    messages: list[Message] = field(default_factory=list)
    last_sequence: int = 0
    last_of: dict[str, Message] = field(default_factory=dict)
    known: dict[str, float] = field(default_factory=dict)  # times of message IDs
    exists_at: float = 0.0
    """Time from which the stream exists."""


class SimulatedDurable:
    """A durable consumer: the messages that its service has not acknowledged yet."""

    def __init__(self, name: str, stream: Stream, subject: str, kernel: Kernel) -> None:
        self.name, self.stream, self.signal = name, stream, Signal(kernel)
        self._prefix = subject.rstrip(">")
        self._kernel = kernel
        self.queue: list[Message] = []
        self.flying: list[Message] = []
        self._held: list[Message] = []
        self._acked: list[Message] = []
        for message in stream.messages:
            self.offer(message)

    def offer(self, message: Message) -> None:
        if message.subject.startswith(self._prefix):
            self.queue.append(message)
            self.signal.set(DELIVERY_SECONDS)

    def take(self) -> list[Message]:
        """Deliver up to a batch. The messages fly until they are acknowledged."""
        taken, self.queue = self.queue[:BATCH], self.queue[BATCH:]
        self.flying += taken
        return taken

    def ack(self, messages: Sequence[Message]) -> None:
        """Forget delivered messages, also those that are already on their way again."""
        done = {each.sequence for each in messages}
        self.flying = [each for each in self.flying if each.sequence not in done]
        self.queue = [each for each in self.queue if each.sequence not in done]
        self._acked = (self._acked + list(messages))[-BATCH:]

    def ack_to(self, last: Message) -> None:
        """Forget a delivered message and all delivered ones before it in the stream.

        The server compares stream sequences: messages that it has delivered earlier, but that come
        later in the stream, stay unacknowledged.
        """
        if any(each.sequence == last.sequence for each in self.flying):
            self.ack([each for each in self.flying if each.sequence <= last.sequence])

    def redeliver(self, messages: Sequence[Message]) -> None:
        """Deliver unacknowledged messages again, after the newer ones."""
        lost = {each.sequence for each in messages}
        self.queue += [each for each in self.flying if each.sequence in lost]
        self.flying = [each for each in self.flying if each.sequence not in lost]
        self.signal.set(DELIVERY_SECONDS)

    def repeat(self, count: int) -> None:
        """Deliver the last acknowledged messages again, because their acknowledgement was lost."""
        if count > 0:
            self.queue += self._acked[-count:]
            self.signal.set(DELIVERY_SECONDS)

    def shuffle(self, seed: int) -> None:
        """Deliver the waiting messages in another order."""
        random.Random(seed).shuffle(self.queue)

    def hold(self, seed: int) -> None:
        """Keep about half of the waiting messages back until `release`."""
        chance = random.Random(seed)
        held = [each for each in self.queue if chance.random() < 0.5]
        self.queue = [each for each in self.queue if each not in held]
        self._held += held

    def release(self) -> None:
        self.queue, self._held = [*self.queue, *self._held], []
        self.signal.set(DELIVERY_SECONDS)

    def forget_after(self, sequence: int) -> None:
        """Drop undelivered messages that the stream has lost."""
        self.queue = [each for each in self.queue if each.sequence <= sequence]
        self._held = [each for each in self._held if each.sequence <= sequence]
        self._acked = [each for each in self._acked if each.sequence <= sequence]


class Bus:
    """All streams and durables. `away_until` is the end of an outage."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.away_until = 0.0
        self.streams = {name: Stream(name) for name in (EVENTS, REPORTS, TELEMETRY, CONTROL)}
        self.durables: dict[str, SimulatedDurable] = {}
        self.seen: dict[str, float] = {}
        """Longest time in the scheduler's own evidence, by subject."""

    def require(self, stream: str = EVENTS) -> Stream:
        """Return a stream. Raise the error of nats-py if the server or the stream is away."""
        if self.kernel.now < self.away_until:
            raise NoServersError
        found = self.streams[stream]
        if self.kernel.now < found.exists_at:
            raise NotFoundError(code=404)
        return found

    def durable(self, name: str, stream: str, subject: str) -> SimulatedDurable:
        if name not in self.durables:
            self.durables[name] = SimulatedDurable(name, self.streams[stream], subject, self.kernel)
        return self.durables[name]

    def store(
        self, stream: str, subject: str, data: bytes, content: Any, headers: dict[str, str]
    ) -> Message:
        found = self.require(stream)
        found.last_sequence += 1
        message = Message(found.last_sequence, subject, data, headers, content)
        found.last_of[subject] = message
        if stream == CONTROL:
            return message
        found.messages.append(message)
        for durable in self.durables.values():
            if durable.stream is found:
                durable.offer(message)
        return message

    def send(self, stream: str, subject: str, message: BaseModel) -> None:
        """Store a message of a service or a trainer. Raise an error of nats-py."""
        data = message.model_dump_json().encode()
        if isinstance(message, PodSeen):
            self.seen[subject] = max(self.seen.get(subject, 0.0), message.elapsed_seconds)
        self.store(stream, subject, data, json.loads(data), {})

    def delete(self, stream: str) -> None:
        """Delete a stream. An operator creates an empty one soon."""
        found = self.streams[stream]
        found.exists_at = self.kernel.now + PROVISION_SECONDS
        self._keep(found, 0)

    def lose_end(self, stream: str, count: int) -> None:
        """Lose the last messages of a stream, as after a crash of the server."""
        found = self.streams[stream]
        self._keep(found, max(0, found.last_sequence - count))

    def _keep(self, stream: Stream, sequence: int) -> None:
        stream.messages = [each for each in stream.messages if each.sequence <= sequence]
        stream.last_sequence = sequence
        stream.last_of = {each.subject: each for each in stream.messages}
        kept = {each.headers.get(Header.MSG_ID) for each in stream.messages}
        stream.known = {id: at for id, at in stream.known.items() if id in kept}
        for durable in self.durables.values():
            if durable.stream is stream:
                durable.forget_after(sequence)


class Client:
    """The NATS client of one process. `reach` is called before and after a publish."""

    def __init__(self, bus: Bus, reach: Callable[[str], None]) -> None:
        self._bus = bus
        self._reach = reach

    def jetstream(self, prefix: str) -> Client:
        del prefix
        return self

    def is_behind(self, last_id: int | None) -> bool:
        """Return True if the last message of the stream is not the last event of the log."""
        messages = self._bus.streams[EVENTS].messages
        last = int(messages[-1].headers[ID_HEADER]) if messages else None
        return last != last_id

    async def stream_info(self, stream: str) -> Any:
        found = self._bus.require(stream)
        return SimpleNamespace(
            state=SimpleNamespace(last_seq=found.last_sequence),
            config=SimpleNamespace(allow_atomic=True),
        )

    async def get_last_msg(self, stream: str, subject: str) -> Message:
        found = self._bus.require(stream)
        if subject.endswith(">"):
            if found.messages:
                return found.messages[-1]
        elif subject in found.last_of:
            return found.last_of[subject]
        raise NotFoundError(code=404)

    async def purge_stream(self, stream: str) -> None:
        self._bus.lose_end(stream, self._bus.require(stream).last_sequence)


class RelayClient(Client):
    """The client of a relay, which publishes batches that the server stores as a whole."""

    def __init__(self, bus: Bus, reach: Callable[[str], None]) -> None:
        super().__init__(bus, reach)
        self._waiting: dict[str, list[tuple[str, bytes, dict[str, str]]]] = {}

    def jetstream(self, prefix: str) -> Any:
        del prefix
        return Committing(self)

    async def publish(self, subject: str, content: bytes, headers: dict[str, str]) -> None:
        """Send a message of a batch. It is lost if the server is away."""
        self._reach("before publish")
        if self._bus.kernel.now >= self._bus.away_until:
            waiting = self._waiting.setdefault(headers[BATCH_ID], [])
            waiting.append((subject, content, headers))

    def commit(self, subject: str, content: bytes, headers: dict[str, str]) -> bool:
        """Store a batch or a single message. Return False if it is a duplicate.

        Raise BadRequestError if a part is missing or known, or the sequence is another one.
        """
        self._reach("before publish")
        found, now = self._bus.require(EVENTS), self._bus.kernel.now
        batch = self._waiting.pop(headers.get(BATCH_ID, ""), [])
        batch.append((subject, content, headers))
        if len(batch) != int(headers.get(BATCH_SEQUENCE, "1")):
            raise BadRequestError(code=400, description="the batch is incomplete")
        ids = [each[2][Header.MSG_ID] for each in batch]
        if any(now - found.known.get(id, -1e9) < DEDUPLICATION_SECONDS for id in ids):
            if len(batch) == 1:
                return False
            raise BadRequestError(code=400, description="the batch has a duplicate")
        if int(batch[0][2][Header.EXPECTED_LAST_SEQUENCE]) != found.last_sequence:
            raise BadRequestError(code=400, description="wrong last sequence")
        for id, (subject, content, headers) in zip(ids, batch, strict=True):
            found.known[id] = now
            self._bus.store(EVENTS, subject, content, content, headers)
        self._reach("after publish")
        return True


class Committing:
    """The JetStream context of a relay."""

    def __init__(self, client: RelayClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def publish(
        self, subject: str, content: bytes, *, headers: dict[str, str], **options: float
    ) -> Any:
        del options
        return SimpleNamespace(duplicate=not self._client.commit(subject, content, headers))


@dataclass
class Delivered:
    """A message as a subscriber gets it. Acknowledging an event also covers all before it."""

    data: bytes
    message: Message
    durable: SimulatedDurable
    reach: Callable[[str], None]

    @property
    def subject(self) -> str:
        return self.message.subject

    @property
    def metadata(self) -> SimpleNamespace:
        return SimpleNamespace(num_delivered=1)

    async def ack(self) -> None:
        self.reach("before ack")
        if self.durable.stream.name == EVENTS:
            self.durable.ack_to(self.message)
        else:
            self.durable.ack([self.message])

    async def nak(self, delay: float) -> None:
        await Pause(delay)
        self.durable.redeliver([self.message])

    async def term(self) -> None:
        self.durable.ack([self.message])

    async def in_progress(self) -> None:
        """Do nothing: the bus waits without end for an acknowledgement."""


class DeliveredBatch:
    """A batch of messages."""

    def __init__(
        self, durable: SimulatedDurable, messages: Sequence[Message], reach: Callable[[str], None]
    ) -> None:
        self.raw_message = [Delivered(each.data, each, durable, reach) for each in messages]


Handle = Callable[[list[Any], Any], Coroutine[Any, Any, None]]


class Broker:
    """The broker of one process. `subscriptions` start when the process serves."""

    def __init__(self, bus: Bus, reach: Callable[[str], None]) -> None:
        self._bus = bus
        self._reach = reach
        self._taken: dict[str, list[Message]] = {}
        self.subscriptions: list[tuple[SimulatedDurable, Handle]] = []

    def subscriber(self, subject: str, *, stream: Any, durable: str, **options: Any) -> Any:
        del options
        found = self._bus.durable(durable, stream.name, subject)

        def subscribe(handle: Handle) -> Handle:
            self.subscriptions.append((found, handle))
            return handle

        return subscribe

    async def give_back(self) -> None:
        """Deliver again what the process took before it died, as the server does in time."""
        await Pause(ACK_SECONDS)
        for name, messages in self._taken.items():
            self._bus.durables[name].redeliver(messages)

    async def jetstream(self) -> Client:
        """Return the client of JetStream."""
        return (await self.connect()).jetstream(SYSTEM_API)

    async def connect(self) -> Client:
        return Client(self._bus, self._reach)

    async def publish(self, message: BaseModel, subject: str, *, stream: str) -> None:
        self._reach("before publish")
        self._bus.send(stream, subject, message)

    async def pull(self, durable: SimulatedDurable, handle: Handle, owner: Owner) -> None:
        """Pass the batches of a durable to a handler, one after the other, until killed."""
        while owner.lives:
            messages = durable.take()
            if not messages:
                await durable.signal
                continue
            self._taken[durable.name] = messages
            batch = DeliveredBatch(durable, messages, self._reach)
            await handle([each.content for each in messages], batch)
            await Pause(0.0)
