"""Free disk space in the home directory."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from domain.core.quantities import gib
from infrastructure.settings import Settings


class DiskLevel(StrEnum):
    """Severity of low disk space."""

    OK = "ok"
    LOW = "low"
    CRITICAL = "critical"


@dataclass(frozen=True)
class DiskSpace:
    """The free and total bytes of the file system of the home directory."""

    free_bytes: int
    total_bytes: int
    level: DiskLevel

    def __str__(self) -> str:
        return f"{gib(self.free_bytes):g} of {gib(self.total_bytes):g} GiB are free"

    def problem(self, home: Path) -> str | None:
        """Return a sentence for the operator if the space is low, otherwise None."""
        if self.level is DiskLevel.OK:
            return None
        return f"Disk space is {self.level}: {self} in {home}. Free some space."


def disk_space(settings: Settings) -> DiskSpace:
    """Return the home directory's disk space, rated by the settings."""
    usage = shutil.disk_usage(settings.home)
    level = DiskLevel.OK
    if usage.free < settings.disk_critical_bytes:
        level = DiskLevel.CRITICAL
    elif usage.free < settings.disk_low_bytes:
        level = DiskLevel.LOW
    return DiskSpace(usage.free, usage.total, level)
