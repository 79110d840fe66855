"""Who is next: accounts take turns, however much one of them asks."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from services.serving.fair_queue import Waiting
from services.serving.row import Row

A, B, C = UUID(int=1), UUID(int=2), UUID(int=3)
NOTHING: Any = None


def row(account_id: UUID) -> Row:
    return Row(account_id, None, [1], 1, frozenset(), NOTHING, NOTHING, NOTHING)


def order(waiting: Waiting, answered: tuple[Row, ...] = ()) -> list[Row]:
    """All rows, one after the other, where each is answered before the next begins."""
    rows = []
    while (next_row := waiting.next(answered)) is not None:
        waiting.leave(next_row)
        rows.append(next_row)
    return rows


def test_an_account_that_asks_much_does_not_keep_others_waiting_for_all_of_it() -> None:
    waiting = Waiting()
    much = [row(A) for _ in range(4)]
    others = [row(B), row(C), row(B)]
    waiting.join(much)
    waiting.join(others)
    assert order(waiting) == [
        much[0], others[0], others[1], much[1], others[2], much[2], much[3]
    ]  # fmt: skip
    assert len(waiting) == 0


def test_who_has_the_fewest_answers_in_the_making_is_next() -> None:
    waiting, mine, others = Waiting(), row(A), row(B)
    waiting.join([mine, others])
    assert waiting.next([row(A)]) is others
    assert waiting.next([row(A), row(B)]) is mine


def test_who_was_sent_back_goes_first_and_who_left_is_not_waited_for() -> None:
    waiting, first, second, back = Waiting(), row(A), row(B), row(C)
    waiting.join([first, second])
    waiting.send_back(back)
    assert (waiting.of(C), len(waiting)) == (1, 3)
    first.cancelled = True
    waiting.forget_cancelled()
    assert order(waiting) == [back, second]


def test_all_that_wait_are_let_go_of_at_once() -> None:
    waiting, rows = Waiting(), [row(A), row(B)]
    waiting.join(rows)
    assert waiting.clear() == rows
    assert waiting.next([]) is None
