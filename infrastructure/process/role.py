"""The role of a thread, in a process that runs several roles.

Each role has a thread with an event loop of its own. Threads that it starts have the same role. In
a process with one role, no thread has a role.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from contextvars import ContextVar
from typing import Any, NoReturn, TypeVar

from pydantic_settings import BaseSettings

Configured = TypeVar("Configured", bound=BaseSettings)

STOP_SECONDS = 5.0
"""Seconds that the other roles of a process have to stop when one of them ends it."""

_role: ContextVar[Role | None] = ContextVar("role", default=None)
_sharing: list[Role] = []


class Role:
    """A role, its environment variables, and what to close before it starts again."""

    def __init__(self, name: str, variables: Mapping[str, str]) -> None:
        self.name, self.variables = name, variables
        self.closing = ExitStack()
        self.children = set[subprocess.Popen[Any]]()
        self.ended = threading.Event()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._calls = set[Callable[[], object]]()

    @property
    def stops(self) -> bool:
        """True if the role must stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask the role to stop. Not safe in a signal handler."""
        with self._lock:
            self._stop.set()
            calls = list(self._calls)
        for call in calls:
            with suppress(RuntimeError):  # its event loop has just ended
                call()

    def on_stop(self, call: Callable[[], object]) -> Callable[[], None]:
        """Call a function when the role must stop, or now. Return a function that cancels it."""
        with self._lock:
            self._calls.add(call)
            stops = self.stops
        if stops:
            call()
        return lambda: self._calls.discard(call)

    def stops_within(self, seconds: float) -> bool:
        """Wait until the role must stop, at most some seconds. Return True if it must."""
        return self._stop.wait(seconds)

    def close(self) -> None:
        """End what a failed attempt has left: child processes, tasks in threads, and pools."""
        for child in list(self.children):
            child.kill()
        self.closing.close()


def current_role() -> Role | None:
    """Return the role of this thread; None if its process has one role."""
    return _role.get()


def settings_of(model: type[Configured]) -> Configured:
    """Return the settings of an extension, from the variables of this thread's role.

    Raise pydantic.ValidationError if one is invalid.
    """
    role = current_role()
    if role is None:
        return model()
    names = {name: f"ECOLINK_{name}".upper() for name in model.model_fields}
    own: dict[str, Any] = {
        name: role.variables[each] for name, each in names.items() if each in role.variables
    }
    return model(**own)


def enter(role: Role) -> None:
    """Give this thread a role."""
    _role.set(role)


def pause(seconds: float) -> None:
    """Wait. Raise SystemExit as soon as the role of this thread must stop."""
    role = current_role()
    if role is None:
        time.sleep(seconds)
    elif role.stops_within(seconds):
        raise SystemExit


def end_process(status: int) -> NoReturn:
    """End this process without cleaning up.

    The other roles of the process first have a few seconds to stop. The role of this thread may
    hang or have stale state, so nothing waits for it.
    """
    for each in _sharing:
        each.stop()
    until, own = time.monotonic() + STOP_SECONDS, current_role()
    for each in _sharing:
        if each is not own:
            each.ended.wait(max(0.0, until - time.monotonic()))
    os._exit(status)


def inherit_roles(sharing: Iterable[Role] = ()) -> None:
    """Let roles share this process: each new thread gets the role of the one that starts it."""
    _sharing.extend(sharing)
    start = threading.Thread.start

    def start_in_role(thread: threading.Thread) -> None:
        if (role := current_role()) is not None:
            thread.run = _run_in_role(role, thread.run)  # type: ignore[method-assign]
        start(thread)

    threading.Thread.start = start_in_role  # type: ignore[method-assign]


def _run_in_role(role: Role, run: Callable[[], None]) -> Callable[[], None]:
    def entered() -> None:
        enter(role)
        run()

    return entered
