"""The sealer's work, done on request."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from extensions.invoices.issuer import Issuer
from extensions.invoices.issuing import Invoicing
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import connect
from infrastructure.seals.archive import SealArchive
from infrastructure.settings import Settings
from services.sealer.sealer import Sealer
from tests.extensions.invoices.bills import KEY, ORIGIN


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
            archive.put_public_key(sealer.log_key)
            issuer = Issuer(store, archive, KEY, ORIGIN)
            Invoicing(issuer, artifacts).answer(datetime.now(UTC))

    return run
