"""Failure classes: each has its row, and every row says what a user needs."""

from __future__ import annotations

from domain.failures import FAILURES, FailureClass, Payer, advice_on


def test_every_class_has_its_row() -> None:
    assert set(FAILURES) == set(FailureClass)


def test_what_is_the_users_cost_is_never_tried_again_at_the_users_cost() -> None:
    assert all(not row.retried for row in FAILURES.values() if row.payer is Payer.USER)


def test_who_pays() -> None:
    paid_by_user = {each for each in FailureClass if FAILURES[each].payer is Payer.USER}
    assert paid_by_user == {FailureClass.BAD_DATA, FailureClass.LOSS_DIVERGED}


def test_the_advice_after_a_lack_of_memory_says_what_was_tried() -> None:
    memory, row = FailureClass.OUT_OF_MEMORY, FAILURES[FailureClass.OUT_OF_MEMORY]
    assert advice_on(memory, 4, halved=False) == row.advice
    assert "again with micro batches of 2" in advice_on(memory, 2, halved=True)
    assert "cannot be made smaller" in advice_on(memory, 1, halved=False)
    disk = FailureClass.DISK_FULL
    assert advice_on(disk, 1, halved=True) == FAILURES[disk].advice


def test_every_row_reads_as_sentences() -> None:
    for row in FAILURES.values():
        for text in (row.sentence, row.advice):
            assert text[0].isupper()
            assert text.endswith(".")
