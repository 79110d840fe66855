"""Threads with limits, in total and per account."""

from __future__ import annotations

from functools import partial
from threading import Event
from uuid import UUID, uuid4

from infrastructure.process.backoff import MAX_PAUSE
from infrastructure.process.fair_work import FairWork
from tests.builders.commands import FixedClock
from tests.polling import TIMEOUT_SECONDS, eventually


def test_an_account_has_one_task_at_a_time() -> None:
    work, busy, other, third = FairWork[str]("work", FixedClock(), 2), uuid4(), uuid4(), uuid4()
    release, done = Event(), list[str]()
    assert work.start(busy, "1", lambda: (release.wait(TIMEOUT_SECONDS), done.append("1"))[0])
    assert not work.start(busy, "2", lambda: done.append("2"))
    assert work.start(other, "3", lambda: done.append("3"))
    eventually(lambda: done == ["3"])
    eventually(lambda: work.start(third, "4", lambda: done.append("4")))
    eventually(lambda: done == ["3", "4"])
    release.set()
    assert work.finish(TIMEOUT_SECONDS)
    assert done == ["3", "4", "1"]
    assert work.excluded == ["3", "4", "1"]


def test_accounts_take_turns() -> None:
    work, accounts = FairWork[UUID]("work", FixedClock(), 1), [uuid4() for _ in range(3)]
    served = list[UUID]()
    for _ in range(6):
        release = Event()

        def serve(account: UUID, release: Event = release) -> None:
            served.append(account)
            release.wait(TIMEOUT_SECONDS)

        work.start_in_turn({account: (account, partial(serve, account)) for account in accounts})
        release.set()
        assert work.finish(TIMEOUT_SECONDS)
    assert set(served[:3]) == set(accounts)
    assert served[3:] == served[:3]


def test_a_failed_task_frees_its_thread_and_is_retried_later() -> None:
    clock, account = FixedClock(), uuid4()
    work = FairWork[str]("work", clock, 1)
    assert work.start(account, "1", lambda: 1 // 0 and None)
    assert work.finish(TIMEOUT_SECONDS)
    assert (work.excluded, work.failures("1")) == (["1"], 1)
    clock.time += MAX_PAUSE
    assert work.excluded == []
    done = Event()
    assert work.start(account, "1", done.set)
    assert done.wait(TIMEOUT_SECONDS)
