"""The rows of the conformance tests of launchers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infrastructure.settings import Settings
from services.scheduler.launchers.launcher import Launcher

Infrastructure = Callable[[Path], AbstractContextManager[Mapping[str, Any]]]


@dataclass(frozen=True)
class Row:
    """A launcher as the tests of the port open it."""

    launcher: str
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    model: type[Settings] = Settings
    await_ready: Callable[[Launcher, Settings], None] = lambda launcher, settings: None
    """Waits until the launcher has prepared the next launch."""

    infrastructure: Infrastructure = lambda directory: nullcontext({})
    """Runs what the launcher connects to, in a directory. Returns more settings."""
