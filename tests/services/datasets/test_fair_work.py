"""Threads with limits, in total and per account."""

from __future__ import annotations

from functools import partial
from threading import Event
from uuid import UUID, uuid4

from services.datasets.fair_work import FairWork
from tests.polling import TIMEOUT_SECONDS, eventually


def test_an_account_has_one_task_at_a_time() -> None:
    work, busy, other, third = FairWork("work", 2), uuid4(), uuid4(), uuid4()
    release, done = Event(), list[str]()
    assert work.start(busy, lambda: (release.wait(TIMEOUT_SECONDS), done.append("busy"))[0])
    assert not work.start(busy, lambda: done.append("busy again"))
    assert work.start(other, lambda: done.append("other"))
    eventually(lambda: done == ["other"])
    eventually(lambda: work.start(third, lambda: done.append("third")))
    eventually(lambda: done == ["other", "third"])
    release.set()
    assert work.finish(TIMEOUT_SECONDS)
    assert done == ["other", "third", "busy"]


def test_accounts_take_turns() -> None:
    work, accounts, served = FairWork("work", 1), [uuid4() for _ in range(3)], list[UUID]()
    for _ in range(6):
        release = Event()

        def serve(account: UUID, release: Event = release) -> None:
            served.append(account)
            release.wait(TIMEOUT_SECONDS)

        work.start_in_turn({account: partial(serve, account) for account in accounts})
        release.set()
        assert work.finish(TIMEOUT_SECONDS)
    assert set(served[:3]) == set(accounts)
    assert served[3:] == served[:3]


def test_a_failed_task_frees_its_thread() -> None:
    work, account = FairWork("work", 1), uuid4()
    assert work.start(account, lambda: 1 // 0 and None)
    assert work.finish(TIMEOUT_SECONDS)
    done = Event()
    assert work.start(account, done.set)
    assert done.wait(TIMEOUT_SECONDS)
