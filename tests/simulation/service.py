"""A simulated service: its real event handlers, with a delay that the simulation chooses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from domain.core.aggregate import Aggregate, Cause, Event, because
from domain.core.event_log import EventLog
from domain.jobs import events
from domain.jobs.job import Job
from infrastructure.bus.event_handlers import EventHandlers
from services.scheduler.handlers import Scheduling


class SimulatedService:
    """Handles events one by one, in the order of the log."""

    def __init__(
        self,
        log: EventLog,
        handle: Callable[[Event], Sequence[Aggregate]],
        cause: Callable[[], Cause],
    ) -> None:
        self._log = log
        self._handle = handle
        self._cause = cause
        self._waiting: deque[Event] = deque()

    @property
    def lags(self) -> bool:
        """True if there are unhandled events."""
        return bool(self._waiting)

    def hear(self, event: Event) -> None:
        self._waiting.append(event)

    def answer(self) -> None:
        """Handle the next event, if there is one, and save the changes."""
        if self._waiting:
            event = self._waiting.popleft()
            with because(replace(self._cause(), causation_id=event.event_id)):
                aggregates = self._handle(event)
                if any(each.pending_events for each in aggregates):
                    self._log.commit(*aggregates)


class SimulatedScheduler(SimulatedService):
    """Also relaunches jobs that are due, after all events are handled."""

    def __init__(self, log: EventLog, scheduling: Scheduling, cause: Callable[[], Cause]) -> None:
        super().__init__(log, EventHandlers(scheduling.handlers).handle, cause)
        self._claim = scheduling.claim
        self._put_off: dict[UUID, datetime] = {}

    @property
    def lags(self) -> bool:
        """True if there are unhandled events or due jobs."""
        return super().lags or self._due() is not None

    def hear(self, event: Event) -> None:
        super().hear(event)
        if isinstance(event, events.RelaunchPostponed):
            self._put_off[event.originator_id] = event.until

    def answer(self) -> None:
        """Handle the next event. Without one, queue a job that is due."""
        if super().lags:
            super().answer()
        elif (job_id := self._due()) is not None:
            del self._put_off[job_id]
            if (job := self._log.find(Job, job_id)) is not None:  # otherwise it has ended
                with because(self._cause()):
                    self._log.commit(*self._claim(job))

    def _due(self) -> UUID | None:
        now = self._cause().now
        return next((job_id for job_id, until in self._put_off.items() if until <= now), None)
