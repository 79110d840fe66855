"""Pull subscriptions for FastStream: a long wait for the first message, and a short one for more.

FastStream's batch subscriber always waits for its whole timeout, even if messages arrive, so jobs
start promptly only with a short timeout. With a short timeout, however, the consumers of an idle
EcoLink sent 200 requests per second, which used a quarter of a core.
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

from infrastructure.rights import SYSTEM_API

POLL_SECONDS = 3.0
"""Maximum wait for a first message, after which a lost request fails."""

PAUSE_SECONDS = 0.2
"""Pause after an error, in seconds. FastStream would retry immediately and block the event loop."""


class LongPollingBroker(NatsBroker):
    """A broker whose batch subscribers use `LongPolling`."""

    api = SYSTEM_API
    """Prefix of JetStream requests of the broker's user."""

    async def jetstream(self) -> JetStreamContext:
        """Connect, and return the client of JetStream."""
        client = await self.connect()
        return client.jetstream(prefix=self.api)

    async def start(self) -> None:
        """Connect and start consuming."""
        await super().start()
        for each in self.subscribers:
            if isinstance(each, BatchPullStreamSubscriber):
                pulled, pull = each.subscription, each.pull_sub
                if isinstance(pulled, LongPolling):
                    continue
                assert pulled is not None
                assert pull.batch_size is not None
                assert pull.timeout is not None
                polled = LongPolling(pulled, pull.batch_size, pull.timeout)
                each.subscription = cast("JetStreamContext.PullSubscription", polled)


class LongPolling:
    """A pull subscription that returns one whole batch at a time.

    FastStream calls `fetch` until a batch is full, the timeout ends, or no message is left.
    """

    def __init__(
        self, pulled: JetStreamContext.PullSubscription, batch_size: int, collect_seconds: float
    ) -> None:
        self._pulled, self._batch_size = pulled, batch_size
        self._collect_seconds = collect_seconds

    async def fetch(self, batch: int, timeout: float | None = None) -> list[Msg]:  # noqa: ASYNC109  # nats-py's
        """Return a first message and the messages that arrive within `collect_seconds` after it.

        Raise nats-py's TimeoutError if no message arrives, or if the batch was already returned.
        Raise other errors of nats-py after a pause.
        """
        if batch < self._batch_size:
            raise NatsTimeoutError
        try:
            messages = await self._pulled.fetch(1, POLL_SECONDS)
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
            except NatsError:  # return these messages; the next call raises the error
                break
        return messages

    async def unsubscribe(self) -> None:
        """End the subscription."""
        await self._pulled.unsubscribe()
