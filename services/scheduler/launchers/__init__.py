"""Launchers by name; a new one is one file and one line."""

from collections.abc import Sequence
from typing import Protocol

from infrastructure.clock import Clock
from infrastructure.settings import Settings
from services.scheduler.launchers.launcher import TRAINER, Launcher
from services.scheduler.launchers.local import LocalLauncher


class OpenLauncher(Protocol):
    """Opens a launcher, which finds again what it launched before; tests replace the program."""

    def __call__(
        self, settings: Settings, clock: Clock, program: Sequence[str] = TRAINER
    ) -> Launcher:
        """The launcher."""
        ...


LAUNCHERS: dict[str, OpenLauncher] = {"local": LocalLauncher}
