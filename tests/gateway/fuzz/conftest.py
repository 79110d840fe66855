"""A gateway with a serving process that has a base model in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infrastructure.settings import Settings
from tests.builders.serving import SECRET, listening, serving_base

WIDE = dict.fromkeys(
    ("address_requests", "refused_credentials", "requests", "changes", "key_changes", "keys"), 10**6
)
"""Limits raised for thousands of requests from one address."""


@pytest.fixture
def settings(settings: Settings, tiny_model: Path) -> Iterator[Settings]:
    """Settings of a gateway with an engine."""
    with serving_base(tiny_model, queue_limit=8) as engine, listening(engine) as url:
        served = {"serving_url": url, "serving_secret": SECRET}
        yield settings.model_copy(update=served | {"limits": WIDE})
