"""The channel that sends messages to running segments over the CONTROL stream."""

from __future__ import annotations

import asyncio
import threading
from uuid import UUID

from faststream.nats import NatsBroker

from infrastructure.bus.streams import CONTROL
from infrastructure.training.reports import Control, StoreCredentials

TIMEOUT_SECONDS = 5.0
ANSWERED_KEPT = 1000


class ControlChannel:
    """A channel that publishes Control messages from the scheduler's worker threads.

    A Control message replaces the previous one of its segment. The channel keeps the last message
    of each segment, so that a new message repeats its flags. After it acknowledges a final report,
    the channel sends that segment nothing more.
    """

    def __init__(self, broker: NatsBroker) -> None:
        self._broker = broker
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sent: dict[tuple[UUID, int], Control] = {}
        self._answered: dict[tuple[UUID, int], None] = {}  # the newest last
        self._sending = threading.RLock()  # each message repeats the flags of the last one

    def bind(self) -> None:
        """Publish through the running event loop. Call this once, inside the loop."""
        self._loop = asyncio.get_running_loop()

    def pay(self, job_id: UUID, segment: int, paid_seconds: int, jwt: str = "") -> None:
        """Send the total number of paid seconds and, if given, a renewed JWT."""
        with self._sending:
            last = self._last(job_id, segment)
            paid_seconds = max(last.paid_seconds, paid_seconds)
            self._send(last, {"paid_seconds": paid_seconds, "jwt": jwt or last.jwt})

    def renew_store(self, job_id: UUID, segment: int, credentials: StoreCredentials) -> None:
        """Send renewed keys with the last paid seconds, or wait for the next lease."""
        with self._sending:
            last = self._sent.get((job_id, segment))
            if last is not None:
                self._send(last, {"store": credentials})

    def segments(self) -> list[tuple[UUID, int]]:
        """Return the segments whose last message is known."""
        return list(self._sent)

    def stop(self, job_id: UUID, segment: int) -> None:
        """Ask a segment to save a checkpoint and exit."""
        with self._sending:
            self._send(self._last(job_id, segment), {"stop": True})

    def answer(self, job_id: UUID, segment: int) -> None:
        """Acknowledge a final report, so that the trainer exits."""
        with self._sending:
            self._send(self._last(job_id, segment), {"answered": True})

    @property
    def kept(self) -> int:
        """Number of segments whose state the channel keeps."""
        return len(self._sent) + len(self._answered)

    def forget(self, job_id: UUID, segment: int) -> None:
        """Drop a removed pod's last message, without a lock that waits for this event loop."""
        self._sent.pop((job_id, segment), None)

    def _last(self, job_id: UUID, segment: int) -> Control:
        new = Control(job_id=job_id, segment=segment, paid_seconds=0)
        return self._sent.get((job_id, segment), new)

    def _send(self, last: Control, changes: dict[str, object]) -> None:
        key, control = (last.job_id, last.segment), last.model_copy(update=changes)
        if key in self._answered and not control.answered:
            return
        if self._loop is None:
            raise TimeoutError("The bus is not connected yet.")
        asyncio.run_coroutine_threadsafe(self._publish(control), self._loop).result(TIMEOUT_SECONDS)
        if control.answered:
            self._sent.pop(key, None)
            self._answered[key] = None
            if len(self._answered) > ANSWERED_KEPT:
                self._answered.pop(next(iter(self._answered)), None)
        else:
            self._sent[key] = control

    async def _publish(self, control: Control) -> None:
        await self._broker.publish(control, control.subject, stream=CONTROL)
