"""The sealer's work, done on request."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from infrastructure.artifacts import Artifacts
from infrastructure.invoices import Issuer
from infrastructure.seal_archive import SealArchive
from infrastructure.settings import Settings
from infrastructure.store import connect
from services.sealer.invoicing import issue_next
from services.sealer.sealer import Sealer
from tests.builders.bills import KEY, ORIGIN


@pytest.fixture
def issue(settings: Settings) -> Callable[[], None]:
    """Seal the log, and issue all requested invoices."""

    def run() -> None:
        artifacts = Artifacts(settings.artifacts)
        archive = SealArchive(artifacts)
        with connect(settings) as store:
            sealer = Sealer(archive, ORIGIN, KEY, lambda: datetime.now(UTC))
            sealer.resume(store)
            while sealer.step(store):
                pass
            sealer.export()
            while issue_next(Issuer(store, archive, KEY, ORIGIN), artifacts, datetime.now(UTC)):
                pass

    return run
