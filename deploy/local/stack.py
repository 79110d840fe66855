"""The embedded stack for commands, which join a running stack or start a temporary one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.home import Home
from deploy.local.state import StackPhase, StackState, recorded_state
from deploy.local.supervisor import READY, send
from deploy.processes import PROCESSES, environment
from infrastructure.extensions import PREFIX, SELECTION
from infrastructure.process.liveness import wait_ended
from infrastructure.settings import Settings


@dataclass(frozen=True)
class Stack:
    """A stack that this process started. Its settings include all URLs."""

    settings: Settings
    supervisor: subprocess.Popen[bytes]  # stops the stack on SIGTERM


def state(home: Path) -> StackState | None:
    """Return the state of the stack that runs on a home, in any phase, or None."""
    found = recorded_state(Home(home.expanduser().resolve()))
    return found if found is not None and found.process is not None else None


def running(home: Path) -> Settings | None:
    """Return the settings of the stack that is ready on a home, or None."""
    found = state(home)
    return found.settings if found is not None and found.phase is StackPhase.READY else None


def recorded_variables(home: Path) -> dict[str, str]:
    """Return the variables that extensions read in the stack that is ready on a home."""
    found = state(home)
    return found.variables if found is not None and found.phase is StackPhase.READY else {}


@contextmanager
def up(settings: Settings, services: Mapping[str, str] = PROCESSES) -> Iterator[Stack]:
    """Start a stack with its own supervisor, and stop it at the end.

    The stack ends when this process ends, for any reason. Raise StackError if it cannot start, or
    if another stack already runs on the home.
    """
    home = Home.of(settings)
    home.prepare()
    lifeline, far_end = socket.socketpair()
    with lifeline:
        with far_end, home.log("supervisor").open("ab") as log:
            supervisor = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "deploy.local.supervisor"),
                    *("--lifeline", str(far_end.fileno())),
                    *(f"{name}={target}" for name, target in services.items()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_without_secrets(os.environ),
                pass_fds=(far_end.fileno(),),
                start_new_session=True,  # only this process receives Ctrl-C
            )
        variables = os.environ | environment(settings.model_copy(update={"home": home.root}))
        try:
            send(lifeline, json.dumps(variables).encode() + b"\n")
            _wait_ready(lifeline, home)
            filled = running(home.root)
            if filled is None:
                raise StackError(f"The supervisor ended. See its log, {home.log('supervisor')}.")
            yield Stack(filled, supervisor)
        finally:
            lifeline.close()
            supervisor.wait()


@contextmanager
def stack(settings: Settings, services: Mapping[str, str] = PROCESSES) -> Iterator[Settings]:
    """Yield the settings of the running stack, or of a temporary one.

    If `services` is empty, only PostgreSQL and NATS are needed. Raise StackError if the running
    stack lacks a requested service.
    """
    if settings.database_url and settings.nats_url and not services:
        yield settings
        return
    found = state(settings.home)
    if found is None or found.phase is not StackPhase.READY:
        with up(settings, services) as started:
            yield started.settings
        return
    missing = set(services) - set(found.roles)
    if missing:
        raise StackError(
            f"The EcoLink in {found.settings.home} does not run {', '.join(sorted(missing))}, "
            "because another command started it. Try again when that command has ended."
        )
    yield found.settings


@contextmanager
def database(settings: Settings) -> Iterator[Settings]:
    """Yield settings for commands that only read the database and the artifact store.

    If a database is configured, start nothing. If the stack on the home uses it, its settings are
    yielded, because they include its secrets. Raise StackError.
    """
    if settings.database_url is None:
        with stack(settings, {}) as joined:
            yield joined
        return
    found = running(settings.home)
    yield found if found and found.database_url == settings.database_url else settings


def down(home: Path, timeout: float = 120.0) -> bool:
    """Stop the stack on a home and wait until it ends. Return False if none is running.

    Raise StackError if this takes longer than `timeout` seconds.
    """
    found = state(home)
    process = found.process if found else None
    if process is None:
        return False
    process.terminate()
    if wait_ended([process], timeout):
        raise StackError(
            f"The supervisor (process {process.pid}) does not stop. See its log in {home / 'logs'}."
        )
    return True


def _without_secrets(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that all services have, and the selection, which imports need."""
    common = {k: v for k, v in variables.items() if k == SELECTION or not k.startswith(PREFIX)}
    return common | {"PYTHONUNBUFFERED": "1"}


def _wait_ready(lifeline: socket.socket, home: Home) -> None:
    """Wait until the supervisor reports that it is ready. Raise StackError if it ends."""
    received = b""
    while READY not in received:
        chunk = lifeline.recv(65536)
        if not chunk:
            reason = received.decode(errors="replace").strip() or "The supervisor failed."
            raise StackError(f"{reason}\nThe log is {home.log('supervisor')}.")
        received += chunk
