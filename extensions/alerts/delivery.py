"""Delivery of notices: each receiver in a thread of its own, with retries.

A notice is sent before its row is updated. If the process ends in between, the receiver gets the
notice again after the restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from extensions.alerts import tables
from extensions.alerts.domain.evaluation import NoticeKind
from extensions.alerts.effect import Connect
from extensions.alerts.messages import message_of
from extensions.alerts.receivers import DeliveryFailed, Message, Receiver, send
from extensions.alerts.rules_file import Rules
from extensions.alerts.tables import NoticeState, PendingNotice
from infrastructure.process.activity import activity
from infrastructure.process.clock import Clock

FIRST_PAUSE, MAX_PAUSE = timedelta(seconds=5), timedelta(minutes=5)
GIVE_UP = timedelta(days=1)
BATCH_NOTICES = 100
RECEIVERS_AT_ONCE = 16
DELIVERY_SECONDS, IDLE_SECONDS = 0.5, 1.0

log = logging.getLogger("alerts")


class _Postponed(Exception):
    """A notice was postponed. The other notices of the batch are tried in the next one."""


class Delivery:
    """The delivery of notices to all receivers. A receiver that fails does not delay others."""

    def __init__(
        self,
        rules: Callable[[], Rules],
        clock: Clock,
        connect: Connect,
        send: Callable[[Receiver, Message], None] = send,
    ) -> None:
        self._rules, self._clock, self._connect, self._send = rules, clock, connect, send
        # Threads of their own, so that receivers that do not respond cannot delay the checks.
        self._threads = ThreadPoolExecutor(RECEIVERS_AT_ONCE, "receiver")
        self._busy: dict[str, asyncio.Future[None]] = {}
        self._sent = set[int]()
        """Notices that were sent, but whose rows the database could not update, for example because
        its disk is full."""

    async def run(self) -> None:
        """Deliver notices until cancelled."""
        while True:
            try:
                await self.start_due()
            except Exception:
                log.exception("cannot read the notices; retrying")
            await activity().pause(DELIVERY_SECONDS, IDLE_SECONDS)

    async def start_due(self) -> None:
        """Start the delivery to each receiver that is idle and has a notice due."""
        self._busy = {name: task for name, task in self._busy.items() if not task.done()}
        for name, notices in (await asyncio.to_thread(self._due)).items():
            if name not in self._busy:
                loop = asyncio.get_running_loop()
                self._busy[name] = loop.run_in_executor(self._threads, self.deliver, name, notices)

    async def finish(self) -> None:
        """Wait until the started deliveries have ended."""
        await asyncio.gather(*self._busy.values())

    def _due(self) -> dict[str, list[PendingNotice]]:
        found: defaultdict[str, list[PendingNotice]] = defaultdict(list)
        with self._connect() as connection:
            for notice in tables.due_notices(connection, self._clock.now(), BATCH_NOTICES):
                found[notice.receiver].append(notice)
        return found

    def deliver(self, name: str, notices: Sequence[PendingNotice]) -> None:
        """Send notices to a receiver in order. A failure ends the batch.

        The others are then tried in the next batch, except later notices of the same alert, which
        wait for the failed one.
        """
        try:
            for notice in notices:
                self._deliver(self._rules().receivers.get(name), notice)
        except _Postponed:
            return
        except Exception:
            log.exception("cannot deliver notices to %s; retrying", name)

    def _deliver(self, receiver: Receiver | None, notice: PendingNotice) -> None:
        """Send a notice, unless it was sent and only its row could not be updated."""
        if receiver is None:
            self._finish(notice, NoticeState.ABANDONED, "The receiver was removed.")
            return
        if notice.id not in self._sent:
            try:
                self._send(receiver, message_of(notice, self._rules().rules.get(notice.alert.rule)))
            except DeliveryFailed as failure:
                self._postpone(notice, str(failure))
                raise _Postponed from None
            self._sent.add(notice.id)
        self._finish(notice, NoticeState.SENT)
        self._sent.discard(notice.id)
        log.info(
            "%s was notified that %s %s is %s",
            *(receiver, notice.alert.rule, notice.alert.group, _state(notice)),
        )

    def _finish(
        self, notice: PendingNotice, state: NoticeState, problem: str | None = None
    ) -> None:
        with self._connect() as connection:
            tables.finish_notice(connection, notice.id, state, problem)

    def _postpone(self, notice: PendingNotice, problem: str) -> None:
        now = self._clock.now()
        if now - notice.created_at > GIVE_UP:
            log.error("gave up a notice for %s after a day: %s", notice.receiver, problem)
            self._finish(notice, NoticeState.ABANDONED, problem)
            return
        pause = min(MAX_PAUSE, FIRST_PAUSE * 2 ** min(notice.failures, 16))
        log.warning(
            "cannot notify %s, retrying in %d s: %s",
            *(notice.receiver, pause.total_seconds(), problem),
        )
        with self._connect() as connection:
            tables.postpone_notice(connection, notice.id, now + pause, problem)


def _state(notice: PendingNotice) -> str:
    return "resolved" if notice.kind is NoticeKind.RESOLVED else "firing"
