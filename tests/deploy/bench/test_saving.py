"""What a run's checkpoints cost it, by the times that it told."""

from __future__ import annotations

import pytest

from deploy.bench.saving import waited_share
from deploy.bench.trainer_runs import WAITED, Saving

RUN = Saving(times=(10.0, 11.0, 12.5, 13.5, 15.0), waits=(0.02, 0.03), save_steps=2)


def test_the_share_is_of_the_time_from_the_first_step_to_the_last() -> None:
    assert waited_share(RUN) == pytest.approx(0.05 / 5.0)


def test_the_step_after_a_save_is_the_one_beside_which_it_is_stored() -> None:
    assert RUN.steps == (
        [pytest.approx(1.5), pytest.approx(1.5)],
        [pytest.approx(1.0), pytest.approx(1.0)],
    )


def test_the_log_tells_how_long_training_waited() -> None:
    line = "DEBUG saved step 10: training waited 0.004 s, durable after 0.120 s"
    assert WAITED.findall(line) == ["0.004"]
