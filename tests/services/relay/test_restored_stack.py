"""Running processes whose database is restored while the bus is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from deploy.local.stack import up
from deploy.processes import PROCESSES
from domain.billing.account import Account
from infrastructure.bus import streams as bus
from infrastructure.bus.streams import Envelope
from infrastructure.postgres.store import open_log
from infrastructure.settings import Settings
from services.projector.audit import audit
from tests.builders.examples import ACCOUNT_ID
from tests.bus_administrator import as_administrator
from tests.logs import envelopes
from tests.polling import eventually
from tests.services.relay.test_publisher import contents
from tests.services.relay.test_restore import Database, balance, credit


def streamed(settings: Settings) -> list[Envelope]:
    """All messages of the stream."""

    async def read() -> list[Envelope]:
        client = await bus.connect(as_administrator(settings))
        try:
            return await contents(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(read())


def logged(settings: Settings) -> list[Envelope]:
    with open_log(settings) as log:
        return envelopes(log)


@pytest.mark.full
@pytest.mark.timeout(600)
def test_services_continue_from_a_restored_database(home: Path) -> None:
    processes = {name: PROCESSES[name] for name in ("relay", "projector", "billing")}
    with up(Settings(home=home), processes) as started:
        settings = started.settings
        database = Database(settings)
        with open_log(settings) as log:
            credit(log, 10, 2)
        eventually(lambda: balance(settings) == 20)
        database.back_up()
        with open_log(settings) as log:
            credit(log, 99, 3)
        eventually(lambda: balance(settings) == 20 + 3 * 99)
        eventually(lambda: streamed(settings) == logged(settings))
        database.restore()
        with open_log(settings) as log:
            credit(log, 7, 3)
            expected = log.load(Account, ACCOUNT_ID).balance_micros
        shown: set[int | None] = set()

        def is_right() -> bool:
            shown.add(balance(settings))
            return balance(settings) == expected and streamed(settings) == logged(settings)

        eventually(is_right, 120)
        assert shown <= {20, 27, 34, 41}, "a phantom was applied"
        assert audit(settings).differences == []
