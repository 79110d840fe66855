"""The erasure of an account ends its syntheses."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from domain.access.api_key import ApiKey
from domain.billing.token_rates import TokenUsage
from domain.core.errors import WrongState
from domain.core.event_log import EventLog
from domain.use_cases.erasing import Erasing, Holdings
from extensions.synthesis.domain.price import CostRange
from extensions.synthesis.domain.synthesis import Counts, StoredFile, Synthesis, SynthesisStatus
from infrastructure.accounts.personal_data import endings
from infrastructure.extensions import SELECTION, selected
from infrastructure.postgres.store import Connection, connect
from infrastructure.settings import Settings
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID
from tests.builders.history import History
from tests.extensions.synthesis.domain.test_synthesis import PLAN


@pytest.fixture
def connection(settings: Settings) -> Iterator[Connection]:
    with connect(settings) as opened:
        yield opened


@pytest.fixture(autouse=True)
def other_selection() -> Iterator[None]:
    yield
    selected.cache_clear()


@pytest.mark.parametrize("selection", ["synthesis", ""])
def test_an_erasure_waits_for_the_batch_of_a_synthesis(
    log: EventLog,
    history: History,
    connection: Connection,
    selection: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SELECTION, selection)
    selected.cache_clear()
    history.open_account(10)
    held = Holdings(keys=(history.issue_key().id,))
    erasing = Erasing(log, end_others=endings(log, connection))
    cost = CostRange(low_micros=0, high_micros=9)
    with command("write"):
        synthesis = Synthesis.approve(uuid4(), ACCOUNT_ID, PLAN, cost, 9, None)
        synthesis.start_batch(4, 0)
        log.commit(synthesis)
    history.suspend()
    with command("erase"), pytest.raises(WrongState, match="still writes examples"):
        erasing.erase(ACCOUNT_ID, held)
    synthesis = log.load(Synthesis, synthesis.id)
    assert synthesis.status is SynthesisStatus.CANCELLED
    assert not log.load(ApiKey, held.keys[0]).revoked
    with command("write"):
        synthesis.complete_batch(Counts(), TokenUsage(), StoredFile(ref="x", sha256="a" * 64))
        log.commit(synthesis)
        assert erasing.erase(ACCOUNT_ID, held).erased
