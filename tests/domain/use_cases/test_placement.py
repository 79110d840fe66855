"""GPUs that were left open: what is free goes before what is cheaper, if it can be paid."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.capacity.availability import PoolLoad
from domain.capacity.queue_eta import Occupied
from domain.catalog.display_names import DisplayNames
from domain.core.errors import Invalid
from domain.jobs.choices import Choices
from domain.training.hyperparameters import Hyperparameters
from domain.use_cases.placement import cheapest

PRICES = {"slow": 100, "fast": 900}
SLOW_IS_TAKEN = [
    PoolLoad("here", "slow", 1, (Occupied(1, 60.0),), ()),
    PoolLoad("here", "fast", 1, (), ()),
]


class Quotes:
    """Prices of places, in micro-dollars, and what people call them."""

    display_names = DisplayNames({"slow": "Slow", "fast": "Fast"}, {"here": "This place"})

    def quote(self, account_id: UUID, choices: Choices) -> Any:
        estimate = SimpleNamespace(high_micros=PRICES[choices.gpu_type], high_seconds=1)
        return SimpleNamespace(estimate=estimate)


def placed(
    balance_micros: int,
    gpu_type: str = "",
    gpu_count: int = 1,
    region: str = "",
) -> str:
    quoting: Any = Quotes()
    choices = Choices(uuid4(), "tiny", region, gpu_type, gpu_count, Hyperparameters())
    return cheapest(quoting, uuid4(), balance_micros, choices, SLOW_IS_TAKEN).gpu_type


def test_what_is_free_goes_before_what_is_cheaper() -> None:
    assert placed(balance_micros=900) == "fast"


def test_a_queue_goes_before_what_cannot_be_paid() -> None:
    assert placed(balance_micros=899) == "slow"


def test_what_costs_least_is_missing_when_nothing_can_be_paid() -> None:
    assert placed(balance_micros=99) == "slow"


def test_what_was_chosen_stays() -> None:
    assert placed(balance_micros=0, gpu_type="fast") == "fast"
    with pytest.raises(Invalid) as refused:
        placed(balance_micros=0, gpu_type="none")
    assert refused.value.field == "gpu_type"
    with pytest.raises(Invalid) as refused:
        placed(balance_micros=0, gpu_count=2)
    assert refused.value.field == "gpu_count"
    with pytest.raises(Invalid, match="Fast in This place") as refused:
        placed(balance_micros=0, region="here", gpu_type="fast", gpu_count=2)
    assert refused.value.field == "gpu_count"
