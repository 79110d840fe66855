"""Accounts take turns, however many chats one of them sends."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from services.serving.fair_queue import FairQueue
from services.serving.row import Row

A, B, C = UUID(int=1), UUID(int=2), UUID(int=3)
NOTHING: Any = None


def row(account_id: UUID) -> Row:
    return Row(account_id, 0, None, [1], 1, frozenset(), NOTHING, NOTHING, NOTHING)


def order(waiting: FairQueue, answered: tuple[Row, ...] = ()) -> list[Row]:
    """All rows in order, if each ends before the next starts."""
    rows = []
    while (next_row := waiting.next(answered)) is not None:
        waiting.leave(next_row)
        rows.append(next_row)
    return rows


def test_accounts_take_turns() -> None:
    waiting = FairQueue()
    much = [row(A) for _ in range(4)]
    others = [row(B), row(C), row(B)]
    waiting.join(much)
    waiting.join(others)
    assert order(waiting) == [
        much[0], others[0], others[1], much[1], others[2], much[2], much[3]
    ]  # fmt: skip
    assert len(waiting) == 0


def test_the_account_with_the_fewest_running_rows_is_next() -> None:
    waiting, mine, others = FairQueue(), row(A), row(B)
    waiting.join([mine, others])
    assert waiting.next([row(A)]) is others
    assert waiting.next([row(A), row(B)]) is mine


def test_rows_sent_back_go_first_and_cancelled_rows_are_dropped() -> None:
    waiting, first, second, back = FairQueue(), row(A), row(B), row(C)
    waiting.join([first, second])
    waiting.send_back(back)
    assert (waiting.of(C), len(waiting)) == (1, 3)
    first.cancelled = True
    waiting.forget_cancelled()
    assert order(waiting) == [back, second]


def test_clear_returns_all_rows() -> None:
    waiting, rows = FairQueue(), [row(A), row(B)]
    waiting.join(rows)
    assert waiting.clear() == rows
    assert waiting.next([]) is None
