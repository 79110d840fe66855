"""Child processes of the supervisor, which starts, watches, restarts and stops them."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BufferedWriter
from pathlib import Path

from deploy.local import tether
from deploy.local.fork_server import Forked, ForkServer
from deploy.local.hang_detection import Check, Silence
from deploy.local.state import ChildState, ChildStatus
from deploy.restarts import backoff_seconds, failures_after
from infrastructure.process.liveness import birth

READY_POLL_SECONDS = 0.05

log = logging.getLogger("supervisor")


@dataclass(frozen=True)
class Program:
    """The command of a child, and how to start and stop it."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    user: str = "self"  # in the format of deploy.local.tether
    stop_signal: signal.Signals = signal.SIGTERM
    # Signal that the kernel sends when the supervisor ends.
    death_signal: signal.Signals = signal.SIGKILL
    stop_seconds: float = 10.0
    restarts: bool = True
    clear: Callable[[], None] | None = None  # kills leftover processes before each start
    ready: Callable[[], bool] | None = None  # None: ready once it runs
    checks: tuple[Check, ...] = ()  # if a check fails, the program hangs
    roles: tuple[str, ...] = ()
    # If true, `argv` is `python -P -m MODULE ...`, and the fork server can run `MODULE.main()`.
    forks: bool = False


def tethered(
    argv: tuple[str, ...],
    user: str = "self",
    death_signal: signal.Signals = signal.SIGKILL,
) -> list[str]:
    """Return a command that runs `argv` and ends together with the calling process."""
    shim = [sys.executable, "-I", "-S", tether.__file__]
    return [*shim, str(os.getpid()), str(int(death_signal)), user, *argv]


class Child:
    """A child process. All methods except `start` return immediately. Call `tick` repeatedly."""

    def __init__(
        self, program: Program, log_file: Path, fork_server: ForkServer | None = None
    ) -> None:
        self.program = program
        self.log_file = log_file
        self._fork_server = fork_server if program.forks else None
        self.state = ChildState.STOPPED
        self.since = datetime.now(UTC)
        self.restarts = 0
        self.exit_code: int | None = None
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self._born: str | None = None
        self._started = self._ended = 0.0
        self.failures = 0  # consecutive exits that were not requested
        self._stop_by = 0.0
        self._silences: tuple[Silence, ...] = ()

    @property
    def alive(self) -> bool:
        """True if the process existed at the last tick."""
        return self._process is not None

    @property
    def status(self) -> ChildStatus:
        """Entry of the child in the state file."""
        return ChildStatus(
            name=self.program.name,
            roles=self.program.roles,
            state=self.state,
            pid=self._process.pid if self._process else None,
            born=self._born,
            restarts=self.restarts,
            since=self.since,
        )

    @property
    def due_seconds(self) -> float | None:
        """Seconds until the next tick is due; None if only a signal makes it due."""
        match self.state:
            case ChildState.STARTING:
                return READY_POLL_SECONDS
            case ChildState.BACKOFF:
                return max(0.0, self._ended + backoff_seconds(self.failures) - time.monotonic())
            case ChildState.STOPPING:
                return max(0.0, self._stop_by - time.monotonic())
            case _:
                return None

    def start(self) -> None:
        """Start the process in a new session, and append its output to the log."""
        if self.program.clear is not None:
            self.program.clear()
        with self.log_file.open("ab") as output:
            self._process = self._fork(output) or subprocess.Popen(
                tethered(self.program.argv, self.program.user, self.program.death_signal),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(self.program.environment),
                start_new_session=True,
            )
        self._born = birth(self._process.pid)
        self._started = time.monotonic()
        self._silences = tuple(Silence(check) for check in self.program.checks)
        self.exit_code = None
        self._enter(ChildState.STARTING)

    def tick(self) -> bool:
        """Update the state and perform actions that are due. Return True if the state changed."""
        before = (self.state, self.restarts)
        if self._process is not None:
            self._reap()
        if self.due_seconds == 0:
            self._act()
        if self.state is ChildState.STARTING and (
            self.program.ready is None or self.program.ready()
        ):
            self._enter(ChildState.RUNNING)
        if self.state is ChildState.RUNNING:
            self._end_if_hung()
        return (self.state, self.restarts) != before

    def terminate(self) -> None:
        """Ask the process to stop, and do not restart it."""
        if self._process is None:
            self._enter(ChildState.STOPPED)
        else:
            self._enter(ChildState.STOPPING)
            self._stop_by = time.monotonic() + self.program.stop_seconds
            # Popen.terminate() would reap a dead process, and the next tick would miss its end.
            os.kill(self._process.pid, self.program.stop_signal)

    def tail(self, lines: int = 12) -> str:
        """Return the last lines of the log, for an error message."""
        with self.log_file.open("rb") as file:
            file.seek(max(0, self.log_file.stat().st_size - 8192))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])

    def _fork(self, output: BufferedWriter) -> Forked | None:
        if self._fork_server is None:
            return None
        return self._fork_server.start(self.program.argv, self.program.environment, output)

    def _act(self) -> None:
        """Restart the process after the back-off, or kill it if it does not stop in time."""
        if self.state is ChildState.BACKOFF:
            self.restarts += 1
            self.start()
        elif self._process is not None:
            log.warning("%s does not stop; killing it", self.program.name)
            _kill_group(self._process.pid)
            self._stop_by = math.inf

    def _end_if_hung(self) -> None:
        for silence in self._silences:
            seconds = silence.look()
            if seconds > silence.check.max_seconds and self._process is not None:
                log.error(
                    "%s hangs (%s for %.0f s); restarting it",
                    *(self.program.name, silence.check.name, seconds),
                )
                _kill_group(self._process.pid)
                self._silences = ()
                return

    def _reap(self) -> None:
        process = self._process
        assert process is not None
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
        # Kill the group before reaping the process: until then, its ID cannot be reused.
        _kill_group(process.pid)
        self.exit_code = process.wait()
        self._process = self._born = None
        self._ended = time.monotonic()
        self.failures = failures_after(self._ended - self._started, self.failures)
        again = self.program.restarts and self.state is not ChildState.STOPPING
        if again:
            log.warning("%s ended with status %d", self.program.name, self.exit_code)
        self._enter(ChildState.BACKOFF if again else ChildState.STOPPED)

    def _enter(self, state: ChildState) -> None:
        if state is not self.state:
            self.state, self.since = state, datetime.now(UTC)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # all processes of the group have exited
