"""Every benchmark imports and has a command."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

BENCHES = [
    path.stem
    for path in sorted(Path(__file__).parent.glob("*.py"))
    if "\ndef bench(" in path.read_text()
]


@pytest.mark.parametrize("name", BENCHES)
def test_a_benchmark_has_a_command(name: str) -> None:
    module = import_module(f"tests.bench.{name}")
    assert module.bench.__doc__
