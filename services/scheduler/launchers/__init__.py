"""The registry of launchers.

To add a launcher, write a module in this package, add its line to LAUNCHERS, and add its row to
`tests/services/scheduler/launchers/test_launcher.py`.
"""

from collections.abc import Mapping

from infrastructure.clock import Clock
from infrastructure.settings import Settings
from services.scheduler.launchers.launcher import TRAINER, Launcher, OpenLauncher, ReadCatalog
from services.scheduler.launchers.local import LocalLauncher

LAUNCHERS: Mapping[str, OpenLauncher] = {"local": LocalLauncher}


class UnknownLauncher(ValueError):
    """ECOLINK_LAUNCHER does not name a launcher."""


def open_launcher(settings: Settings, clock: Clock, catalog: ReadCatalog) -> Launcher:
    """Return the launcher that the settings name. Raise UnknownLauncher if there is none."""
    if settings.launcher not in LAUNCHERS:
        raise UnknownLauncher(
            f"Unknown launcher {settings.launcher!r}. "
            f"Set ECOLINK_LAUNCHER to one of: {', '.join(LAUNCHERS)}."
        )
    return LAUNCHERS[settings.launcher](settings, clock, catalog, TRAINER)
