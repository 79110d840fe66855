"""Failovers: a leader is killed, frozen or cut off while its standby waits, and the standby leads.

`leaderships` has the epoch of each leader and the time at which it took the lead.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median

import psutil
import psycopg
from psycopg.rows import dict_row

from infrastructure.postgres.leadership import SESSION_NAME
from tests.chaos.chats import Chats, Seen
from tests.chaos.entry import lease_seconds
from tests.chaos.faults import Fault, Injector
from tests.chaos.records import Connection, Row
from tests.chaos.rig import LEADERS, Rig

WAYS = ("kill", "stop", "cut")

SPAN_SECONDS = (3.0, 6.0)
"""Time by which a stop or a cut exceeds the lease, so that the former leader meets the new one."""

STANDBY_SECONDS, TAKEOVER_SECONDS, ANSWER_SECONDS = 120.0, 120.0, 240.0
"""Longest waits for a standby, for its lead, and for its first chat. The machine may be busy."""

SESSIONS = """
SELECT count(*) AS count FROM pg_stat_activity WHERE application_name = %s AND state = 'idle'
"""


def planned(
    seed: int, numbers: range, lease_seconds: float, leaders: Sequence[str] = LEADERS
) -> Iterator[Fault]:
    """Yield the failovers of a seed in order. Each leader has its turn in each round of numbers."""
    for number in numbers:
        turn, place = divmod(number - 1, len(leaders))
        order = random.Random(f"{seed}/{turn}").sample(leaders, len(leaders))
        random_ = random.Random(f"{seed}/{number}")
        way, wait = random_.choice(WAYS), random_.uniform(0.1, 2.5)
        seconds = 0.0 if way == "kill" else lease_seconds + random_.uniform(*SPAN_SECONDS)
        yield Fault(number, way, f"leader {order[place]}", wait, round(seconds, 1))


@dataclass
class Takeovers:
    """The takeovers of a run."""

    seconds: dict[tuple[str, str], list[float]] = field(
        default_factory=lambda: defaultdict[tuple[str, str], list[float]](list)
    )
    """Seconds from the fault to the new lead, by way and service."""
    answered: list[float] = field(default_factory=list)
    """Seconds from a fault of serving to the first answer of the new leader."""
    failed: list[str] = field(default_factory=list)
    """Sentences about takeovers that did not happen."""

    def add(self, other: Takeovers) -> None:
        """Add the takeovers of a round."""
        for key, seconds in other.seconds.items():
            self.seconds[key] += seconds
        self.answered += other.answered
        self.failed += other.failed

    def lines(self) -> Iterator[str]:
        """Yield the number, median and worst time, one line for each way and each service."""
        for place, name in enumerate(("way", "service")):
            grouped: dict[str, list[float]] = defaultdict(list)
            for key, seconds in self.seconds.items():
                grouped[key[place]] += seconds
            yield f"{name:<12}{'takeovers':>10}{'median s':>10}{'worst s':>10}"
            for each, seconds in sorted(grouped.items()):
                yield _line(each, seconds)
        if self.answered:
            yield _line("first answer", self.answered)


@dataclass
class Failovers:
    """The injector of failovers into a rig."""

    rig: Rig
    injector: Injector
    taken: Takeovers
    chats: Chats
    _waits_since: float | None = None

    def inject(self, fault: Fault) -> str:
        """Hit the leader of a service, and wait until another process leads. Return the time."""
        service = fault.target.removeprefix("leader ")
        self._waits_since = None
        led = self.injector.pause(STANDBY_SECONDS, lambda: self._led_with_standby(service))
        if not isinstance(led, dict):
            self.taken.failed.append(f"{fault.number}: {service} has no standby")
            return "no standby"
        process, began = psutil.Process(led["pid"]), time.time()
        self._hit(fault, service, process)
        new = self.injector.pause(TAKEOVER_SECONDS, lambda: self._newer(service, led["epoch"]))
        if not isinstance(new, dict):
            self.taken.failed.append(f"{fault.number}: no process leads as {service} after {fault}")
            return "no takeover"
        seconds = max(0.0, new["since"].timestamp() - began)
        self.taken.seconds[fault.kind, service].append(seconds)
        happened = f"taken over after {seconds:.2f} s"
        return happened if service != "serving" else f"{happened}, {self._answers(fault, began)}"

    def _answers(self, fault: Fault, began: float) -> str:
        """Wait for an answer of the new leader of serving. Return the time."""
        since = time.time()
        answer = self.injector.pause(ANSWER_SECONDS, lambda: self.chats.answered_since(since))
        if not isinstance(answer, Seen):
            self.taken.failed.append(f"{fault.number}: no chat is answered after {fault}")
            return "no answer"
        self.taken.answered.append(answer.ended - began)
        return f"first answer after {answer.ended - began:.2f} s"

    def _hit(self, fault: Fault, service: str, process: psutil.Process) -> None:
        match fault.kind:
            case "kill":
                process.kill()
            case "stop":
                process.suspend()
                self.injector.end_later(fault.seconds, lambda: _resume(process))
            case _:
                network, link = self.rig.network, self.rig.name_of(service, process.pid)
                assert network is not None, "failovers need network namespaces, and so root"
                network.cut(link)
                self.injector.end_later(fault.seconds, lambda: network.restore(link))

    def _led_with_standby(self, service: str) -> Row | None:
        """Return the lead of a service if its process runs and another one waits for it.

        A former leader also has a session for a moment, until it notices the new one and exits.
        """
        lead = self._now_led_with_standby(service)
        if lead is None:
            self._waits_since = None
            return None
        self._waits_since = self._waits_since or time.monotonic()
        return lead if time.monotonic() - self._waits_since > lease_seconds() / 2 else None

    def _now_led_with_standby(self, service: str) -> Row | None:
        with suppress(psycopg.Error, psutil.NoSuchProcess), self._connect() as connection:
            waiting = connection.execute(SESSIONS, [SESSION_NAME % service]).fetchone()
            led = _lead(connection, service)
            if waiting and waiting["count"] >= 2 and led is not None:
                status = psutil.Process(led["pid"]).status()
                if status not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED):
                    return led
        return None

    def _newer(self, service: str, epoch: int) -> Row | None:
        with suppress(psycopg.Error), self._connect() as connection:
            led = _lead(connection, service)
            if led is not None and led["epoch"] > epoch:
                return led
        return None

    def _connect(self) -> Connection:
        url = self.rig.settings.database_url
        assert url is not None
        return Connection.connect(url, autocommit=True, row_factory=dict_row, connect_timeout=2)


def _line(name: str, seconds: list[float]) -> str:
    return f"{name:<12}{len(seconds):>10}{median(seconds):>10.2f}{max(seconds):>10.2f}"


def _lead(connection: Connection, service: str) -> Row | None:
    return connection.execute(
        "SELECT epoch, pid, since FROM leaderships WHERE name = %s", [service]
    ).fetchone()


def _resume(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.resume()
