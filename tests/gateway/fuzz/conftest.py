"""A gateway with a serving process that has a base model in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from domain.core.identity import PLATFORM_ACCOUNT_ID, deployment_id
from infrastructure.settings import Settings
from services.serving.deployed import Served
from services.serving.engine import Engine, EngineOptions
from tests.builders.platform import BASE_MODEL
from tests.builders.tiny_model import make_tiny_model
from tests.services.serving.listening import SECRET, listening

WIDE = dict.fromkeys(
    ("address_requests", "refused_credentials", "requests", "changes", "key_changes", "keys"), 10**6
)
"""Limits raised for thousands of requests from one address."""


@pytest.fixture
def settings(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a gateway with an engine."""
    directory = make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    base_id = deployment_id(PLATFORM_ACCOUNT_ID, BASE_MODEL)
    engine = Engine(EngineOptions(rows=4, queue_limit=8, precision="fp32", device="cpu", threads=1))
    engine.attach(Served(base_id, BASE_MODEL, BASE_MODEL, "22", directory, None))
    with listening(engine) as url:
        served = {"serving_url": url, "serving_secret": SECRET}
        yield settings.model_copy(update=served | {"limits": WIDE})
    engine.close()
