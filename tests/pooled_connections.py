"""A rule for connections of a pool: a thread has none while it waits for another service.

Few threads have a connection at once. If they kept it while the artifact store or a payment
provider is slow, all pages would wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest

from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import Connection, ProcessPool

Guard = Callable[[Callable[..., Any]], Callable[..., Any]]

READS = ("get", "get_document", "get_range", "stream", "size", "exists", "list", "sizes")
WRITES = ("put", "create", "put_file", "copy", "delete")


def refuse_waits_with_a_connection(monkeypatch: pytest.MonkeyPatch) -> Guard:
    """Fail a request that has a pooled connection while it reads or writes artifacts.

    Requests run in threads of anyio. Return a decorator with the same rule for other calls.
    """
    own = threading.local()
    lend = ProcessPool.connection

    @contextmanager
    def counted(pool: ProcessPool, timeout: float | None = None) -> Generator[Connection]:
        with lend(pool, timeout) as connection:
            own.held = getattr(own, "held", 0) + 1
            try:
                yield connection
            finally:
                own.held -= 1

    def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*arguments: Any, **named: Any) -> Any:
            is_request = threading.current_thread().name.startswith("AnyIO")
            waits = is_request and getattr(own, "held", 0) > 0
            assert not waits, f"{call.__name__} waits with a connection"
            return call(*arguments, **named)

        return checked

    monkeypatch.setattr(ProcessPool, "connection", counted)
    for name in (*READS, *WRITES):
        monkeypatch.setattr(Artifacts, name, guarded(getattr(Artifacts, name)))
    return guarded
