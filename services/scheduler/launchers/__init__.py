"""Launchers by name; a new one is one file and one line."""

from collections.abc import Callable

from infrastructure.clock import Clock
from infrastructure.settings import Settings
from services.scheduler.launchers.launcher import Launcher
from services.scheduler.launchers.local import LocalLauncher

LAUNCHERS: dict[str, Callable[[Settings, Clock], Launcher]] = {"local": LocalLauncher}
