"""The data that checks read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings


@dataclass(frozen=True)
class Surroundings:
    """The database, the artifact store and the settings, at a time.

    `failures` has the reason for each rule whose last check failed.
    """

    settings: Settings
    connection: Connection
    artifacts: Artifacts
    now: datetime
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
