"""Speaks to running segments over the CONTROL stream."""

from __future__ import annotations

import asyncio
from uuid import UUID

from faststream.nats import NatsBroker

from infrastructure.bus import CONTROL
from infrastructure.reports import Control

TIMEOUT_SECONDS = 5.0
ANSWERED_KEPT = 1000


class ControlChannel:
    """Publishes Control messages from the scheduler's worker threads.

    What a segment was told last is kept until it is answered or forgotten, so that one flag never
    takes another back. One that was answered is told nothing more: that would take the answer back.
    """

    def __init__(self, broker: NatsBroker) -> None:
        self._broker = broker
        self._loop: asyncio.AbstractEventLoop | None = None
        self._said: dict[tuple[UUID, int], Control] = {}
        self._answered: dict[tuple[UUID, int], None] = {}  # the latest ones, in order

    def bind(self) -> None:
        """Use the running event loop; called once it runs."""
        self._loop = asyncio.get_running_loop()

    def pay(self, job_id: UUID, segment: int, paid_seconds: int, jwt: str = "") -> None:
        """Let a segment run on until it has used this much time in all, with a renewed JWT."""
        self._say(job_id, segment, paid_seconds=paid_seconds, jwt=jwt)

    def stop(self, job_id: UUID, segment: int) -> None:
        """Have a segment save and exit."""
        self._say(job_id, segment, stop=True)

    def answer(self, job_id: UUID, segment: int) -> None:
        """Acknowledge a final report; the trainer may exit."""
        self._say(job_id, segment, answered=True)

    @property
    def kept(self) -> int:
        """How many segments something is kept of."""
        return len(self._said) + len(self._answered)

    def forget(self, job_id: UUID, segment: int) -> None:
        """Drop what is kept of a segment whose pod was swept away: it may never be answered."""
        self._said.pop((job_id, segment), None)

    def _say(
        self,
        job_id: UUID,
        segment: int,
        *,
        paid_seconds: int = 0,
        stop: bool = False,
        answered: bool = False,
        jwt: str = "",
    ) -> None:
        key = (job_id, segment)
        if key in self._answered and not answered:
            return
        last = self._said.get(key) or Control(job_id=job_id, segment=segment, paid_seconds=0)
        control = last.model_copy(
            update={
                "paid_seconds": max(last.paid_seconds, paid_seconds),
                "stop": last.stop or stop,
                "answered": last.answered or answered,
                "jwt": jwt or last.jwt,
            }
        )
        if self._loop is None:
            raise TimeoutError("the bus is not connected yet")
        asyncio.run_coroutine_threadsafe(self._publish(control), self._loop).result(TIMEOUT_SECONDS)
        if answered:
            self._said.pop(key, None)
            self._answered[key] = None
            if len(self._answered) > ANSWERED_KEPT:
                self._answered.pop(next(iter(self._answered)), None)
        else:
            self._said[key] = control

    async def _publish(self, control: Control) -> None:
        await self._broker.publish(control, control.subject, stream=CONTROL)
