"""The process imports torch with the first model only."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.full


def test_the_training_stack_is_not_imported_before_the_first_model() -> None:
    heavy = "{'torch', 'transformers', 'peft'} & {*sys.modules}"
    program = f"import sys, services.serving.app; print(sorted({heavy}))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.stdout.strip() == "[]", shown.stderr
