"""One prompt answered by a base and by its adapter."""

from __future__ import annotations

import pytest

from services.trainer.comparison import compare
from tests.services.trainer.segments import Trainer


@pytest.mark.full
def test_base_and_adapter_answer_the_same_prompt(trainer: Trainer) -> None:
    modules = ["q_proj", "v_proj", "up_proj", "down_proj"]
    spec = trainer.spec({"epochs": 40, "target_modules": modules})
    trainer.run(spec)
    answers = compare(
        trainer.artifacts, spec.base_ref, spec.adapter_prefix, "What is 2 and 2?", new_tokens=12
    )
    assert answers["base"] != answers["adapter"]
