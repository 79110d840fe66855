"""Failure classes: each has its row, and every row says what a user needs."""

from __future__ import annotations

from domain.jobs.failures import FAILURES, FailureClass, MemoryShortage, Payer, advice_on


def test_every_class_has_its_row() -> None:
    assert set(FAILURES) == set(FailureClass)


def test_what_is_the_users_cost_is_never_tried_again_at_the_users_cost() -> None:
    assert all(not row.retried for row in FAILURES.values() if row.payer is Payer.USER)


def test_who_pays() -> None:
    paid_by_user = {each for each in FailureClass if FAILURES[each].payer is Payer.USER}
    assert paid_by_user == {FailureClass.BAD_DATA, FailureClass.LOSS_DIVERGED}


def test_the_advice_after_a_lack_of_memory_says_what_was_tried() -> None:
    memory, row = FailureClass.OUT_OF_MEMORY, FAILURES[FailureClass.OUT_OF_MEMORY]
    several = MemoryShortage(
        rows=4, tokens=90, micro_batch_size=1, gradient_accumulation=4, peak_bytes=10**9
    )
    single = several.model_copy(update={"rows": 1})
    assert advice_on(memory, None, halved=False) == row.advice
    assert advice_on(memory, several, halved=False) == row.advice
    after_halving = advice_on(memory, several, halved=True)
    assert after_halving != row.advice
    for halved in (False, True):
        assert "90" in advice_on(memory, single, halved=halved) != after_halving
    disk = FailureClass.DISK_FULL
    assert advice_on(disk, single, halved=True) == FAILURES[disk].advice


def test_every_row_reads_as_sentences() -> None:
    for row in FAILURES.values():
        for text in (row.sentence, row.advice):
            assert text[0].isupper()
            assert text.endswith(".")
