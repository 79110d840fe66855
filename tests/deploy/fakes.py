"""Small services for the supervisor to run; each is named like a real one, `module:callable`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from infrastructure.settings import Settings

STEADY = "tests.deploy.fakes:steady"
STUBBORN = "tests.deploy.fakes:stubborn"
CRASHING = "tests.deploy.fakes:crashing"


def steady(settings: Settings) -> None:
    """Run until told to stop; tell what it was given."""
    (settings.home / "steady.env").write_text("\n".join(sorted(os.environ)))

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    while True:
        signal.pause()


def stubborn(settings: Settings) -> None:
    """Run on when told to stop."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()


def crashing(settings: Settings) -> None:
    """End at once, with an error."""
    raise RuntimeError("this service always crashes")
