"""Faults: their seeded choice, and their injection into a running stack."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import nats.errors
import psutil
from nats.js import JetStreamContext
from nats.js.errors import Error as JetStreamError

from infrastructure.bus import streams as bus
from tests.bus_administrator import as_administrator
from tests.chaos.failpoints import Armed
from tests.chaos.rig import NETWORKED, SERVICES, STANDBYS, Rig, standby_of
from tests.chaos.seams import POINTS

KINDS = {
    "kill": 26,
    "stop": 13,
    "failpoint": 40,
    "stream": 7,
    "cut": 8,
    "disk": 4,
    "power": 2,
}
"""Kinds of faults, with their weights."""

WORKERS = {
    **{"relay": 3, "projector": 3, "billing": 6, "scheduler": 6, "gateway": 2, "datasets": 1},
    **{"exporter": 2, "trackers": 2, "synthesis": 2},
}
KILLED = {
    **{name: WORKERS.get(name, 1) for name in SERVICES},
    **{standby_of(name): 1 for name in STANDBYS},
    **{"trainer": 8, "shim": 3, "postgres": 3, "backend": 2, "nats": 3},
}
STOPPED = {
    **{name: WORKERS.get(name, 1) for name in SERVICES},
    **{standby_of(name): 1 for name in STANDBYS},
    **{"trainer": 6, "shim": 2, "postgres": 2, "nats": 2},
}
DISKS = ("home", "artifacts")
STREAMS = {
    "purge EVENTS": 3,
    "delete EVENTS": 2,
    "delete the end of EVENTS": 2,
    "delete REPORTS": 2,
    "delete CONTROL": 1,
    "delete a consumer": 2,
}
POINTED = {
    **{name: WORKERS.get(name, 1) for name in POINTS},
    "trainer": 5,
}

SHORT_SECONDS, LONG_SECONDS, SILENT_SECONDS = (0.2, 2.0), (6.0, 10.0), (28.0, 32.0)
"""Durations of a stop. A long one exceeds the lease of a leader, and for a trainer its silence."""

START_SECONDS = 30.0
"""Time to wait for a process that does not run."""

FIRE_SECONDS = 6.0
"""Time that a process has to reach its failpoint. After that, the fault kills the process."""


@dataclass(frozen=True)
class Fault:
    """A fault, as its seed determines it."""

    number: int
    kind: str
    target: str
    wait_seconds: float
    """Pause since the fault before."""
    seconds: float = 0.0
    """Duration of a stop or a delay."""
    armed: Armed | None = None
    choice: float = 0.0
    """Choice among several equal processes, as a fraction."""

    @classmethod
    def drawn(cls, seed: int, number: int) -> Fault:
        """Return fault `number` of a seed."""
        random_ = random.Random(f"{seed}/{number}")
        kind = _one_of(random_, KINDS)
        wait, choice = random_.uniform(0.1, 2.5), random_.random()
        span = LONG_SECONDS if random_.random() < 0.5 else SHORT_SECONDS
        seconds = round(random_.uniform(*span), 1)
        match kind:
            case "kill":
                return cls(number, kind, _one_of(random_, KILLED), wait, choice=choice)
            case "stop":
                target = _one_of(random_, STOPPED)
                if target == "trainer" and span is LONG_SECONDS:
                    seconds = round(random_.uniform(*SILENT_SECONDS), 1)
                return cls(number, kind, target, wait, seconds, choice=choice)
            case "failpoint":
                target = _one_of(random_, POINTED)
                point = random_.choice(POINTS[target])
                action = _one_of(random_, {"kill": 6, "stop": 3, "delay": 1})
                count = 1 if target == "gateway" else random_.choice((1, 1, 1, 2, 3))
                armed = Armed(number, point, count, action, min(seconds, 8.0))  # type: ignore[arg-type]
                return cls(number, kind, target, wait, seconds, armed)
            case "stream":
                return cls(number, kind, _one_of(random_, STREAMS), wait, choice=choice)
            case "cut":
                return cls(number, kind, random_.choice(NETWORKED), wait, seconds)
            case "disk":
                return cls(number, kind, random_.choice(DISKS), wait, seconds)
        return cls(number, kind, "supervisor", wait)

    def __str__(self) -> str:
        if self.armed is not None:
            seconds = self.armed.seconds if self.armed.action == "delay" else self.seconds
            then = f" for {seconds:g} s" if self.armed.action != "kill" else ""
            point = f"{self.armed.point} #{self.armed.count}"
            return f"{self.armed.action} {self.target} at {point}{then}"
        if self.kind == "stop":
            return f"stop {self.target} for {self.seconds:g} s"
        if self.kind == "cut":
            return f"cut the network of {self.target} for {self.seconds:g} s"
        if self.kind == "disk":
            return f"fill the disk of {self.target} for {self.seconds:g} s"
        return self.target if self.kind == "stream" else f"{self.kind} {self.target}"


def _one_of(random_: random.Random, weighted: dict[str, int]) -> str:
    return random_.choices(list(weighted), weights=list(weighted.values()))[0]


@dataclass
class Injector:
    """An injector of faults into a rig. Faults that last end later, in `end_due`."""

    rig: Rig
    _ends: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    """Ends of faults, each with its time."""
    _full: set[str] = field(default_factory=set)
    """Disks that are full now."""

    def inject(self, fault: Fault) -> str:
        """Inject a fault. Return what happened, if it differs from the plan."""
        match fault.kind:
            case "kill":
                return self._kill(fault)
            case "stop":
                return self._stop(fault)
            case "failpoint":
                return self._fire(fault)
            case "stream":
                return self._damage_streams(fault)
            case "cut":
                return self._cut(fault)
            case "disk":
                return self._fill(fault)
            case "power":
                self.end_all()
                self.rig.lose_power()
        return ""

    def end_due(self, now: float | None = None) -> None:
        """End the faults whose time is over."""
        now = time.monotonic() if now is None else now
        due = [end for until, end in self._ends if until <= now]
        self._ends = [each for each in self._ends if each[0] > now]
        for end in due:
            end()
        for name in self._full:  # processes delete files while the disk is full
            self.rig.disks[name].fill()

    def end_all(self) -> None:
        """End every fault that lasts."""
        self.end_due(math.inf)

    def end_later(self, seconds: float, end: Callable[[], None]) -> None:
        """Call a function after some seconds, in `end_due`."""
        self._ends.append((time.monotonic() + seconds, end))

    def pause(self, seconds: float, until: Callable[[], object] = lambda: None) -> object:
        """Wait until the condition is true, and keep the rig running. Return its last result."""
        deadline = time.monotonic() + seconds
        while True:
            self.end_due()
            self.rig.keep_standbys()
            found = until()
            if found or time.monotonic() > deadline:
                return found
            time.sleep(0.05)

    def _processes(self, target: str, choice: float) -> list[psutil.Process]:
        """Return the process to hit, and its children if they share its fate."""
        if target in ("trainer", "shim"):
            found = self.rig.trainers() if target == "trainer" else self.rig.shims()
            return found[int(choice * len(found)) :][:1]
        if target == "backend":
            server = self.rig.process("postgres")
            backends = _children(server)
            return backends[int(choice * len(backends)) :][:1]
        process = self.rig.process(target)
        if process is None:
            return []
        return [process, *(_children(process) if target == "postgres" else [])]

    def _await_processes(self, fault: Fault) -> list[psutil.Process]:
        """Return the processes to hit. Wait a moment for a pod to start."""
        self.pause(START_SECONDS, lambda: self._processes(fault.target, fault.choice))
        return self._processes(fault.target, fault.choice)

    def _kill(self, fault: Fault) -> str:
        found = self._await_processes(fault)
        if not found:
            return "not running"
        _each(found[:1], psutil.Process.kill)  # a server's own children end with it
        return ""

    def _stop(self, fault: Fault) -> str:
        found = self._await_processes(fault)
        _each(found, psutil.Process.suspend)
        self.end_later(fault.seconds, lambda: _each(found, psutil.Process.resume))
        return "" if found else "not running"

    def _cut(self, fault: Fault) -> str:
        network = self.rig.network
        if network is None:
            return "not possible"
        network.cut(fault.target)
        self.end_later(fault.seconds, lambda: network.restore(fault.target))
        return ""

    def _fill(self, fault: Fault) -> str:
        disk = self.rig.disks.get(fault.target)
        if disk is None:
            return "not possible"
        disk.fill()
        self._full.add(fault.target)

        def clear() -> None:
            self._full.discard(fault.target)
            disk.clear()

        self.end_later(fault.seconds, clear)
        return ""

    def _fire(self, fault: Fault) -> str:
        assert fault.armed is not None
        arming = self.rig.arming
        arming.arm(fault.target, fault.armed)
        pid = self.pause(FIRE_SECONDS, lambda: arming.fired_in(fault.number))
        arming.disarm(fault.target)
        pid = pid or arming.fired_in(fault.number)
        if pid is None:
            missed = self._kill(Fault(fault.number, "kill", fault.target, 0))
            return f"not reached; killed instead {missed}".strip()
        if fault.armed.action == "stop":
            assert isinstance(pid, int)
            with suppress(psutil.NoSuchProcess):
                stopped = [psutil.Process(pid)]
                self.end_later(fault.seconds, lambda: _each(stopped, psutil.Process.resume))
        return ""

    def _damage_streams(self, fault: Fault) -> str:
        try:
            asyncio.run(asyncio.wait_for(self._damage(fault), 5.0))
        except (nats.errors.Error, JetStreamError, OSError, TimeoutError) as error:
            return f"failed: {error!r}"
        return ""

    async def _damage(self, fault: Fault) -> None:
        connection = await bus.connect(
            as_administrator(self.rig.settings), max_reconnect_attempts=1
        )
        try:
            await _damage_stream(connection.jetstream(timeout=3), fault)
        finally:
            await connection.close()


async def _damage_stream(js: JetStreamContext, fault: Fault) -> None:
    match fault.target:
        case "purge EVENTS":
            await js.purge_stream(bus.EVENTS)
        case "delete the end of EVENTS":
            last = (await js.stream_info(bus.EVENTS)).state.last_seq
            for sequence in range(last, max(0, last - 21), -1):  # the last first: without a hole
                await js.delete_msg(bus.EVENTS, sequence)
        case "delete a consumer":
            found = sorted(each.name for each in await js.consumers_info(bus.EVENTS))
            if found:
                await js.delete_consumer(bus.EVENTS, found[int(fault.choice * len(found))])
        case _:
            await js.delete_stream(fault.target.split()[-1])
            await bus.provision(js)  # like an operator, because no service may create a stream


def _children(process: psutil.Process | None) -> list[psutil.Process]:
    try:
        return [] if process is None else process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _each(processes: list[psutil.Process], act: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            act(process)


def planned(seed: int, numbers: range) -> Iterator[Fault]:
    """Yield the faults of a seed in order."""
    for number in numbers:
        yield Fault.drawn(seed, number)
