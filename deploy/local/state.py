"""What the supervisor tells about its stack, in one file that others read."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from deploy.local.home import Home, write_private
from infrastructure.liveness import living
from infrastructure.settings import Settings


class StackPhase(StrEnum):
    """Where the stack as a whole stands."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"


class ChildState(StrEnum):
    """Where one child stands."""

    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"  # ended by itself; starts again soon
    STOPPING = "stopping"
    STOPPED = "stopped"


class ChildStatus(BaseModel):
    """One child as the state file shows it."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: ChildState
    pid: int | None
    born: str | None  # as infrastructure.liveness names the process
    restarts: int
    since: datetime

    @property
    def process(self) -> psutil.Process | None:
        """The living process, or None."""
        return living(self.pid, self.born)


class StackState(BaseModel):
    """The state file: who supervises, what runs, and where it is reached (with passwords)."""

    model_config = ConfigDict(frozen=True)

    pid: int
    born: str
    phase: StackPhase
    since: datetime
    settings: Settings
    children: tuple[ChildStatus, ...] = ()

    @property
    def process(self) -> psutil.Process | None:
        """The living supervisor, or None."""
        return living(self.pid, self.born)

    def write(self, home: Home) -> None:
        """Replace the state file."""
        write_private(home.state, self.model_dump_json(indent=1))


def recorded_state(home: Home) -> StackState | None:
    """The last state that a supervisor wrote, living or not; None: none, or of another version."""
    try:
        return StackState.model_validate_json(home.state.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def living_state(home: Home) -> StackState | None:
    """The state of a supervisor that lives, or None."""
    state = recorded_state(home)
    return state if state is not None and state.process is not None else None
