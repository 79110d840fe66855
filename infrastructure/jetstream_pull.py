"""Pulling from JetStream: an idle consumer waits, and does not ask again and again.

FastStream's batch subscriber fetches for all of its timeout, whether it gets a message or not. So a
timeout that is short enough for a job to start promptly made the many consumers of an idle EcoLink
ask 200 times a second, which took a quarter of a core.
"""

from __future__ import annotations

import asyncio
from typing import cast

from faststream.nats import NatsBroker
from faststream.nats.subscriber.usecases.stream_pull_subscriber import BatchPullStreamSubscriber
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext

LINGER_SECONDS = 2.0
"""How long a request for a first message stands. One that was lost with its connection, or whose
consumer was deleted, is not answered for so long."""

PAUSE_SECONDS = 0.2
"""After what NATS refuses at once: FastStream asks again at once, which could hold up all else."""


class LingeringBroker(NatsBroker):
    """A broker whose batch subscribers wait long for a first message, then briefly for more."""

    async def start(self) -> None:
        """Connect, and begin to consume."""
        await super().start()
        for each in self.subscribers:
            if isinstance(each, BatchPullStreamSubscriber):
                pulled, pull = each.subscription, each.pull_sub
                if isinstance(pulled, Lingering):
                    continue
                assert pulled is not None
                assert pull.batch_size is not None
                assert pull.timeout is not None
                lingering = Lingering(pulled, pull.batch_size, pull.timeout)
                each.subscription = cast("JetStreamContext.PullSubscription", lingering)


class Lingering:
    """A pull subscription that gives its subscriber one whole batch at a time.

    To be used as nats-py's is by FastStream: it calls `fetch` for what a batch lacks until its
    timeout has passed, or until there is no more.
    """

    def __init__(
        self, pulled: JetStreamContext.PullSubscription, batch_size: int, collect_seconds: float
    ) -> None:
        self._pulled, self._batch_size = pulled, batch_size
        self._collect_seconds = collect_seconds

    async def fetch(self, batch: int, timeout: float | None = None) -> list[Msg]:  # noqa: ASYNC109  # nats-py's
        """A first message, and what comes within the time for collecting after it.

        Raises nats-py's TimeoutError if none comes, or if this batch has been given; other errors
        of nats-py after a pause.
        """
        if batch < self._batch_size:
            raise NatsTimeoutError
        try:
            messages = await self._pulled.fetch(1, LINGER_SECONDS)
        except NatsTimeoutError:
            raise
        except NatsError:
            await asyncio.sleep(PAUSE_SECONDS)
            raise
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._collect_seconds
        while len(messages) < batch and (left := deadline - loop.time()) > 0:
            try:
                messages += await self._pulled.fetch(batch - len(messages), left)
            except NatsError:  # whatever it is, these messages are there; it is met again
                break
        return messages

    async def unsubscribe(self) -> None:
        """Ask for no more."""
        await self._pulled.unsubscribe()
