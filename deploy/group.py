"""Several roles in one process: each in a thread, and restarted alone if it fails."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from deploy.restarts import backoff_seconds, failures_after
from domain.core.event_format import NewerFormat
from infrastructure.postgres.presence import EXIT_CODE
from infrastructure.process.metrics import ROLE_RESTARTS
from infrastructure.process.role import Role, enter, inherit_roles

log = logging.getLogger("deploy.run")


@dataclass(frozen=True)
class Member:
    """A role of a group, and its work, which returns when the role has stopped."""

    role: Role
    work: Callable[[], None]


class Group:
    """The roles of a process. A role that fails is restarted after a pause."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._ended, self._end = os.pipe()

    def run(self) -> int:
        """Run all roles until SIGTERM, and wait until they have ended. Return the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._request(0))
        inherit_roles(each.role for each in self._members)
        # The process does not wait for daemon threads if its supervisor kills it.
        threads = [
            threading.Thread(target=self._run, args=[each], name=each.role.name, daemon=True)
            for each in self._members
        ]
        for thread in threads:
            thread.start()
        status = os.read(self._ended, 1)[0]
        for each in self._members:
            each.role.stop()
        for thread in threads:
            thread.join()
        return status

    def _request(self, status: int) -> None:
        """End the process with a status. Safe in a signal handler, because it takes no lock."""
        os.write(self._end, bytes([status]))

    def _run(self, member: Member) -> None:
        enter(member.role)
        self._keep(member)
        member.role.ended.set()

    def _keep(self, member: Member) -> None:
        role, failures = member.role, 0
        while not role.stops:
            began = time.monotonic()
            log.info("%s starts", role.name)
            try:
                member.work()
            except NewerFormat as error:
                log.critical("%s does not start: %s", role.name, error)
                self._request(EXIT_CODE)
                return
            except SystemExit:
                pass  # the role has logged the reason, or must stop
            except BaseException:  # also a CancelledError, which would end the thread
                log.critical("%s failed", role.name, exc_info=True)
            if role.stops:
                break
            self._clear(role)
            failures = failures_after(time.monotonic() - began, failures)
            seconds = backoff_seconds(failures)
            ROLE_RESTARTS.labels(role.name).inc()
            log.warning("%s ended; restarting it in %g s", role.name, seconds)
            role.stops_within(seconds)
        log.info("%s ended", role.name)

    def _clear(self, role: Role) -> None:
        with suppress(Exception):  # what cannot be closed must not prevent the restart
            role.close()
        gc.collect()  # connections of closed event loops are in cycles
