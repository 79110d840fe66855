"""The state file of the supervisor, which other processes read."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy.local.home import Home, write_private
from infrastructure.extensions import environment
from infrastructure.process.liveness import living
from infrastructure.settings import Settings


class StackPhase(StrEnum):
    """Phase of the whole stack."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"


class ChildState(StrEnum):
    """State of one child."""

    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"  # the child exited and will be restarted
    STOPPING = "stopping"
    STOPPED = "stopped"


class ChildStatus(BaseModel):
    """A child in the state file."""

    model_config = ConfigDict(frozen=True)

    name: str
    roles: tuple[str, ...] = ()
    state: ChildState
    pid: int | None
    born: str | None  # start time; see infrastructure.process.liveness.birth
    restarts: int
    since: datetime

    def runs(self, name: str) -> bool:
        """Return True if this is the process of a role, or a server with this name."""
        return name in (self.roles or (self.name,))

    @property
    def process(self) -> psutil.Process | None:
        """Running process, or None."""
        return living(self.pid, self.born)


class StackState(BaseModel):
    """The state file: supervisor, children, and the settings with all URLs and passwords."""

    model_config = ConfigDict(frozen=True)

    pid: int
    born: str
    phase: StackPhase
    since: datetime
    settings: Settings
    variables: dict[str, str] = Field(default_factory=environment)
    """Variables that extensions read."""
    children: tuple[ChildStatus, ...] = ()

    @property
    def roles(self) -> list[str]:
        """Names of the roles, and of servers."""
        return [role for child in self.children for role in child.roles or (child.name,)]

    @property
    def process(self) -> psutil.Process | None:
        """Running supervisor, or None."""
        return living(self.pid, self.born)

    def write(self, home: Home) -> None:
        """Replace the state file."""
        write_private(home.state, self.model_dump_json(indent=1))


def recorded_state(home: Home) -> StackState | None:
    """Return the last written state, even if its supervisor has ended; None if it is unreadable."""
    try:
        return StackState.model_validate_json(home.state.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
