"""Disk alarms in the log when free space on the home's disk is low."""

from __future__ import annotations

import logging
import time

from infrastructure.process.disk_space import DiskLevel, disk_space
from infrastructure.settings import Settings

REPEAT_SECONDS = 600.0
SEVERITY = {
    DiskLevel.OK: logging.INFO,
    DiskLevel.LOW: logging.WARNING,
    DiskLevel.CRITICAL: logging.CRITICAL,
}

log = logging.getLogger("supervisor")


class DiskWatch:
    """A watch that logs each change of the disk space level. A low level repeats every 10 min."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._level, self._logged_at = DiskLevel.OK, 0.0

    def look(self) -> None:
        """Check the disk once, without blocking."""
        space = disk_space(self._settings)
        changed = space.level is not self._level
        late = time.monotonic() - self._logged_at > REPEAT_SECONDS
        if changed or (late and space.level is not DiskLevel.OK):
            self._level, self._logged_at = space.level, time.monotonic()
            home = self._settings.home
            log.log(SEVERITY[space.level], "disk space is %s: %s in %s", space.level, space, home)
