"""A request waits for its own events in the projections that it reads, and for no others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from unittest.mock import Mock
from uuid import uuid4

import pytest
from psycopg_pool import ConnectionPool

from domain.core.event_log import EventLog
from gateway.backend import Backend
from gateway.http.read_your_writes import caught_up
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.postgres.store import Connection
from projections import ACCOUNTS, GPU_POOLS, MODELS, projection
from projections.projection import Projection, ProjectionEffect
from tests.logs import grow, ids


@pytest.fixture
def backend(log: EventLog, pool: ConnectionPool[Connection]) -> Backend:
    return Mock(spec=Backend, log=log, pool=pool)


def grow_elsewhere(log: EventLog, events: int) -> None:
    """Append events of another account, in another request."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(copy_context().run, grow, log, events, uuid4()).result()


def fold(backend: Backend, projection: Projection, stop: int | None = None) -> None:
    effect = ProjectionEffect(projection, backend.pool.connection)
    OrderedConsumer(effect, backend.log).catch_up(stop)


def has(backend: Backend, *projections: Projection) -> bool:
    """Return True if the projections have what a new request with one event needs."""
    return caught_up(backend, *projections, patience_seconds=0)


def test_a_request_waits_for_its_own_event_in_all_projections(
    backend: Backend, log: EventLog
) -> None:
    def request() -> None:
        grow(log, 1)
        own = log.last_saved
        assert own == ids(log)[-1]
        fold(backend, ACCOUNTS)
        assert has(backend, ACCOUNTS)
        assert not has(backend, ACCOUNTS, MODELS)
        fold(backend, MODELS)
        assert has(backend, ACCOUNTS, MODELS)

    copy_context().run(request)


def test_a_request_does_not_wait_for_later_events(backend: Backend, log: EventLog) -> None:
    def request() -> None:
        grow(log, 3)
        own = log.last_saved
        grow_elsewhere(log, 600)
        fold(backend, ACCOUNTS, stop=own)
        assert has(backend, ACCOUNTS)

    copy_context().run(request)


def test_a_request_without_events_waits_only_for_events_that_it_reads(
    backend: Backend, log: EventLog
) -> None:
    grow_elsewhere(log, 3)
    assert not has(backend, ACCOUNTS)
    assert has(backend, MODELS)
    fold(backend, ACCOUNTS)
    fold(backend, GPU_POOLS)
    assert has(backend, ACCOUNTS, GPU_POOLS)


def test_a_request_without_events_waits_for_projections_that_are_far_behind(
    backend: Backend, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow_elsewhere(log, 3)
    *_, behind, _, head = ids(log)
    fold(backend, ACCOUNTS)
    monkeypatch.setattr(projection, "SEARCHED_IDS", head - behind)
    fold(backend, MODELS, stop=behind - 1)
    assert not has(backend, MODELS)
    fold(backend, MODELS, stop=behind)
    assert has(backend, MODELS)
