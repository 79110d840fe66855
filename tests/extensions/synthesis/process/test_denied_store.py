"""A store that denies access to the synthesis process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn
from uuid import UUID

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from extensions.synthesis.domain.synthesis import StopReason, SynthesisStatus
from tests.extensions.synthesis.process.bench import Bench, give_up
from tests.scripted_model import Scripted


def raising(error: Exception) -> Callable[..., NoReturn]:
    def put(*_: Any) -> NoReturn:
        raise error

    return put


def with_open_batch(bench: Bench) -> UUID:
    """Return a synthesis with an open batch, which has a reserve."""
    id = bench.approve(bench.deployed())
    with bench.commanding(), bench.billing():
        synthesis = bench.synthesis(id)
        synthesis.start_batch(4, 1_000)
        bench.log.commit(synthesis)
    return id


def test_a_denied_store_pauses_the_run_and_its_batch_is_closed_later(
    bench: Bench, model: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = with_open_batch(bench)
    with monkeypatch.context() as patch, bench.billing():
        patch.setattr(bench.artifacts, "put", raising(PermissionDeniedError("AccessDenied")))
        assert not asyncio.run(give_up(bench, id))
    run = bench.synthesis(id)
    assert (run.status, run.pause_reason) == (SynthesisStatus.PAUSED, StopReason.ERROR)
    assert run.open_batch
    assert bench.account.reserved_micros > 0
    assert not bench.work(id, model.url).open_batch
    assert bench.account.reserved_micros == 0
    assert model.requests == []


def test_an_outage_of_the_store_pauses_no_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = with_open_batch(bench)
    monkeypatch.setattr(bench.artifacts, "put", raising(GenericError("S3 is down.")))
    with pytest.raises(GenericError):
        asyncio.run(give_up(bench, id))
    assert bench.synthesis(id).status is SynthesisStatus.GENERATING
