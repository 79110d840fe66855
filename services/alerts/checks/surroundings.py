"""What a check can look at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from infrastructure.artifacts import Artifacts
from infrastructure.settings import Settings
from infrastructure.store import Connection


@dataclass(frozen=True)
class Surroundings:
    """The database, the artifact store and the settings, at a time."""

    settings: Settings
    connection: Connection
    artifacts: Artifacts
    now: datetime
