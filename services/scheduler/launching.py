"""Launching: segments that found no room yet are launched as soon as there is some."""

from __future__ import annotations

import logging
from datetime import timedelta

from psycopg_pool import ConnectionPool

from domain.billing.meter import Meter
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.core.identity import meter_id
from infrastructure.backoff import Postponed
from infrastructure.clock import Clock, SystemClock
from infrastructure.store import Connection
from projections.open_meters import unbound_segments
from services.scheduler.handlers import Scheduling
from services.scheduler.launchers.launcher import NoRoomYet, PodName

FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=0.5), timedelta(seconds=4)

MOST_TRIES = 7
"""After twenty seconds a process whose end was heard is gone, or never will be."""


class Launching:
    """Looks for leased segments without a pod: so a scheduler that starts anew finds them too.

    The GPUs of a segment are given back when its end is heard, which is before its process is gone.
    Nothing is billed before the launcher binds them. Pauses are of the machine's time, as its
    processes know no other.
    """

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        pool: ConnectionPool[Connection],
        scheduling: Scheduling,
        machine: Clock = SystemClock(),
    ) -> None:
        self._log = log
        self._clock = clock
        self._pool = pool
        self._scheduling = scheduling
        self._machine = machine
        self._postponed = Postponed[PodName](FIRST_PAUSE, LONGEST_PAUSE)
        self._logger = logging.getLogger("launching")

    def launch_waiting(self) -> None:
        """Try each that is due; what is seen first may be on its way by the reaction to its lease.

        One that cannot be launched is logged, and keeps no other from being.
        """
        with self._pool.connection() as connection:
            rows = unbound_segments(connection)
        unbound = [PodName(row["job_id"], row["segment"]) for row in rows]
        now = self._machine.now()
        due, waiting = self._postponed.due(now), self._postponed.waiting(now)
        for name in (waiting | set(due)).difference(unbound):
            self._postponed.settled(name)
        for name in unbound:
            if name in due:
                self._try(name)
            elif name not in waiting:
                self._postponed.put_off(name, now)

    def _try(self, name: PodName) -> None:
        try:
            self._log.retrying(lambda: self._attempt(name))
        except NoRoomYet as reason:
            pause = self._postponed.put_off(name, self._machine.now())
            self._logger.info("%s finds no room yet: %s; again in %s", name, reason, pause)
        except Exception:
            self._postponed.put_off(name, self._machine.now())
            self._logger.exception("%s cannot be launched; trying again", name)

    def _attempt(self, name: PodName) -> None:
        meter = self._log.find(Meter, meter_id(name.job_id, name.segment))
        if meter is None or meter.closed or meter.paid_seconds == 0:
            return
        may_wait = self._postponed.tries(name) < MOST_TRIES
        cause = Cause("service:scheduler", f"launch:{name}", self._clock.now())
        with because(cause), self._scheduling.one_at_a_time:
            launched = self._scheduling.launch(
                name.job_id, name.segment, meter.paid_seconds, may_wait=may_wait
            )
            self._log.commit(*launched)
