"""The supervisor, which starts the servers, the migration and every service, and restarts them.

Its command is `python -m deploy.local.supervisor --lifeline FD NAME=MODULE:CALLABLE ...`. The
lifeline is a socket to the process that started the supervisor. The supervisor reads its variables
from it, so that the fork server and the services do not have them in their memory. It writes
`ready` or an error to it. It stops when the kernel closes the socket, however that process ends.
Only one thread of the supervisor starts children, because a parent-death signal is tied to it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import FrameType

from deploy.local.child import Child, Program
from deploy.local.disk_watch import DiskWatch
from deploy.local.errors import StackError
from deploy.local.fork_server import ForkServer
from deploy.local.hang_detection import Probe, Prober
from deploy.local.home import Home
from deploy.local.plan import Plan, make_plan
from deploy.local.pods import stop_pods
from deploy.local.state import ChildState, StackPhase, StackState, recorded_state
from deploy.processes import PROCESSES
from deploy.run import PRIVATE_UMASK, set_up_logging
from infrastructure.extensions import selected
from infrastructure.process.liveness import birth, kill_groups
from infrastructure.settings import Settings

START_SECONDS = 120.0
START_FAILURES = 3  # exits of one service after which the start fails
READY = b"ready\n"
IMPORTED_LATE = ("anyio._backends._asyncio", "anyio.streams.tls", "certifi", "httpcore")
"""Modules that libraries import when they are first used."""

log = logging.getLogger("supervisor")


class StopRequested(Exception):
    """A signal or the end of the starting process requested a stop."""


class Supervisor:
    """One run of the stack on a home that the caller has locked."""

    def __init__(
        self, home: Home, plan: Plan, lifeline: socket.socket, fork_server: ForkServer
    ) -> None:
        self._home = home
        self._plan = plan
        self._lifeline: socket.socket | None = lifeline
        self._fork_server = fork_server
        self._phase = StackPhase.STARTING
        self._since = datetime.now(UTC)
        self._servers: list[Child] = []
        self._services: list[Child] = []
        self._disk = DiskWatch(plan.settings)
        self._wakeup, self._wakeup_write = socket.socketpair()
        self._stop_requested = self._unwritten = False

    def run(self) -> None:
        """Start everything, keep it running, and stop it in order.

        Raise StackError if the stack cannot start.
        """
        self._listen_to_signals()
        try:
            self._start()
            self._enter(StackPhase.READY)
            send(self._lifeline, READY)
            while True:
                self._turn()
        except StopRequested:
            log.info("stopping")
        finally:
            self._stop()

    def _start(self) -> None:
        servers = self._plan.servers
        for server in servers:
            server.initialize()
            self._servers.append(self._child(server.program))
        self._start_together(self._servers, failures=1)
        for server in servers:
            server.provision()
        self._run_to_end(self._plan.migration)
        self._services = [self._child(program) for program in self._plan.services]
        self._start_together(self._services, failures=START_FAILURES)
        children = (*self._servers, *self._services)
        checks = [check for child in children for check in child.program.checks]
        Prober(check for check in checks if isinstance(check, Probe)).start()

    def _child(self, program: Program) -> Child:
        return Child(program, self._home.log(program.name), self._fork_server)

    def _start_together(self, children: Sequence[Child], failures: int) -> None:
        """Start children and wait until all are ready. Raise StackError if one fails to start."""
        deadline = time.monotonic() + START_SECONDS
        for child in children:
            child.start()
        while late := [child for child in children if child.state is not ChildState.RUNNING]:
            self._turn()
            for child in late:
                if child.failures >= failures or time.monotonic() > deadline:
                    raise StackError(f"{child.program.name} does not start.\n{child.tail()}")

    def _run_to_end(self, program: Program) -> None:
        """Run a program to completion before the next step. Raise StackError if it fails."""
        child = self._child(program)
        child.start()
        try:
            while child.alive:
                self._turn(child)
        finally:
            self._stop_together([child])
        if child.exit_code != 0:
            raise StackError(f"{program.name} failed.\n{child.tail()}")

    def _turn(self, *others: Child) -> None:
        """Wait for an event, then tick every child. Raise StopRequested after a stop request."""
        children = (*self._servers, *self._services, *others)
        self._wait(children)
        if self._stop_requested:
            raise StopRequested
        self._home.rotate_logs()
        changed = [child.tick() for child in children]  # ticks all children: any() would stop early
        _reap_orphans({child.status.pid for child in children})
        self._disk.look()
        if any(changed) or self._unwritten:
            self._write_state()

    def _wait(self, children: Sequence[Child], max_seconds: float = 5.0) -> None:
        due = [child.due_seconds for child in children if child.due_seconds is not None]
        watched = [self._wakeup] + ([self._lifeline] if self._lifeline else [])
        readable, _, _ = select.select(watched, [], [], min([max_seconds, *due]))
        if self._wakeup in readable:
            self._wakeup.recv(4096)
        if self._lifeline in readable and not self._lifeline_holds():
            self._stop_requested = True
            self._lifeline = None

    def _lifeline_holds(self) -> bool:
        assert self._lifeline is not None
        try:
            return self._lifeline.recv(64) != b""
        except OSError:
            return False

    def _stop(self) -> None:
        """Stop the services, then the pods, which still report, then the servers in reverse."""
        self._enter(StackPhase.STOPPING)
        self._stop_together(self._services[::-1])
        ended = stop_pods(self._home, self._plan.pod_stop_seconds)
        if ended:
            log.warning("%d pods did not stop in time and were killed", ended)
        for child in self._servers[::-1]:
            self._stop_together([child])
            if child.program.clear is not None:
                child.program.clear()
        self._enter(StackPhase.STOPPED)

    def _stop_together(self, children: Sequence[Child]) -> None:
        for child in children:
            child.terminate()
        while alive := [child for child in children if child.alive]:
            self._wait(alive)
            for child in alive:
                child.tick()
            self._write_state()

    def _enter(self, phase: StackPhase) -> None:
        self._phase, self._since = phase, datetime.now(UTC)
        log.info("%s", phase)
        self._write_state()

    def _write_state(self) -> None:
        """Write the state file. If the disk is full, a later turn writes it."""
        born = birth(os.getpid())
        assert born is not None
        state = StackState(
            pid=os.getpid(),
            born=born,
            phase=self._phase,
            since=self._since,
            settings=self._plan.settings,
            children=tuple(child.status for child in (*self._servers, *self._services)),
        )
        try:
            state.write(self._home)
            self._unwritten = False
        except OSError as error:
            if not self._unwritten:
                log.error("cannot write the state file: %s", error)
            self._unwritten = True

    def _listen_to_signals(self) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            self._stop_requested = True

        for end in (self._wakeup, self._wakeup_write):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # only wakes up select()


def _modules(services: Mapping[str, str]) -> list[str]:
    """Return the modules that the migration and the services import at their start."""
    own = [target.partition(":")[0] for target in services.values()]
    added = [
        f"{extension.package}.{reference.partition(':')[0]}"
        for extension in (selected() if PROCESSES["gateway"] in services.values() else ())
        for reference in (*extension.api, *extension.pages, *extension.dataset_work)
    ]
    return ["deploy.migrate", "deploy.run", *own, *added, *(IMPORTED_LATE if own else ())]


def _reap_orphans(children: Collection[int | None]) -> None:
    """Reap processes whose parents have ended, apart from children, which reap themselves."""
    with suppress(ChildProcessError):  # there is no process
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in children:
                return
            os.waitpid(ended.si_pid, 0)


def _read_variables(lifeline: socket.socket) -> dict[str, str]:
    """Read the environment variables. End if the starting process has ended."""
    with lifeline.makefile("rb", buffering=0) as lines:
        line = lines.readline()
    if not line.endswith(b"\n"):
        sys.exit("the starting process has ended")
    return json.loads(line)


def send(lifeline: socket.socket | None, message: bytes) -> None:
    """Send a message to the starting process. If it has ended, the next wait detects this."""
    if lifeline is not None:
        with suppress(OSError):
            lifeline.sendall(message)


def end_leftovers(home: Home, pod_stop_seconds: float) -> None:
    """End processes left over from a supervisor that was killed.

    Children normally end with their supervisor. Killing those that still run loses nothing.
    """
    previous = recorded_state(home)
    children = previous.children if previous else ()
    kill_groups(process for child in children if (process := child.process) is not None)
    stop_pods(home, pod_stop_seconds)


def main() -> None:
    """Run the stack that the arguments and the environment describe."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.supervisor")
    parser.add_argument(
        "--lifeline", type=int, required=True, help="descriptor of a socket to the starter"
    )
    parser.add_argument("services", nargs="*", metavar="NAME=MODULE:CALLABLE")
    arguments = parser.parse_args()
    services = dict(service.split("=", 1) for service in arguments.services)
    fork_server = ForkServer(_modules(services))
    lifeline = socket.socket(fileno=arguments.lifeline)
    os.environ.update(_read_variables(lifeline))
    settings = Settings()
    os.umask(PRIVATE_UMASK)
    set_up_logging(settings, "supervisor")
    home = Home.of(settings)
    try:
        home.prepare()
        with home.locked():
            with home.log("supervisor").open("ab") as file:
                os.dup2(file.fileno(), sys.stderr.fileno())
            plan = make_plan(home, settings, services)
            end_leftovers(home, plan.pod_stop_seconds)
            Supervisor(home, plan, lifeline, fork_server).run()
    except StackError as error:
        log.error("%s", error)
        send(lifeline, str(error).encode())
        sys.exit(1)


if __name__ == "__main__":
    main()
