"""One prompt answered by a base and by its adapter."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from infrastructure.artifacts import Artifacts
from services.trainer.comparison import compare
from tests.services.trainer.conftest import SpecMaker


@pytest.mark.full
def test_base_and_adapter_answer_the_same_prompt(
    run: Callable, make_spec: SpecMaker, artifacts: Artifacts
) -> None:
    spec = make_spec({"epochs": 40, "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]})
    run(spec)
    answers = compare(
        artifacts, spec.base_ref, spec.adapter_prefix, "What is 2 and 2?", new_tokens=12
    )
    assert answers["base"] != answers["adapter"]
