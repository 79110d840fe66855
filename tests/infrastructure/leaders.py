"""A process that leads and keeps writing, for tests to stop and kill.

`python -m tests.infrastructure.leaders NAME FILE` reads the settings from the environment. When it
leads, it writes its epoch to the file, then opens one account after another.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from eventsourcing.persistence import PersistenceError

from domain.access.role import Role
from domain.billing.account import Account
from domain.core.aggregate import Cause, because
from domain.core.errors import VersionConflict
from infrastructure.postgres.leadership import leading
from infrastructure.postgres.store import open_log
from infrastructure.process.clock import SystemClock
from infrastructure.settings import Settings


def main(name: str, file: Path) -> None:
    """Lead and write until the process ends."""
    settings = Settings()
    with leading(settings, name) as leadership:
        with open_log(settings, leadership=leadership) as log:
            file.write_text(str(leadership.epoch))
            while True:
                cause = Cause(f"leader:{os.getpid()}", str(uuid4()), SystemClock().now())
                with because(cause), suppress(PersistenceError, VersionConflict):
                    log.commit(Account.open(uuid4(), Role.OWNER, "UTC"))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
