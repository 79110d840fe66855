"""Environment of the operator's commands: a store without services."""

from __future__ import annotations

import pytest

from deploy.processes import environment
from infrastructure.settings import Settings


@pytest.fixture(autouse=True)
def _configured(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
