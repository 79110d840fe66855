"""Users of the pages and their uploads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient

from domain.catalog.base_model import BaseModel
from domain.core.aggregate import because
from domain.datasets.dataset import Dataset
from infrastructure.artifacts import Artifacts
from infrastructure.profiles import set_dataset_name
from infrastructure.store import connect
from services.datasets.validation import validate
from tests.gateway.conftest import World
from tests.gateway.web.dataset_page import import_base
from tests.gateway.web.reader import Reader
from tests.gateway.web.signed_in import Browser, signed_in
from tests.gateway.web.wizard_form import Wizard


@pytest.fixture
def browser(client: TestClient, world: World) -> Browser:
    """The browser of a user with $20."""
    return signed_in(client, world.person(dollars=20))


@pytest.fixture
def wizard(browser: Browser, world: World) -> Wizard:
    """The wizard of a user with a dataset of ten examples and $20."""
    world.base_model()
    wizard = Wizard(browser, world, world.dataset(browser.person))
    world.project()
    wizard.open()
    return wizard


@pytest.fixture
def reader(client: TestClient, world: World) -> Reader:
    """A user with $10 on the page of their job."""
    return Reader(client, world)


@pytest.fixture
def base(world: World, tmp_path: Path) -> BaseModel:
    """A base model with a tokenizer in the store."""
    return import_base(world, tmp_path / "tiny")


@pytest.fixture
def upload(browser: Browser, world: World) -> Callable[..., UUID]:
    """Create a dataset from lines, validated or not."""

    def made(*lines: Any, name: str = "chats", validated: bool = True) -> UUID:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        content = "".join(text + "\n" for text in texts).encode()
        dataset_id, artifacts = uuid4(), Artifacts(world.settings.artifacts)
        with because(world.cause):
            dataset = Dataset.uploaded(
                dataset_id, browser.person.account_id, "uploads/x", "00", len(content)
            )
            if validated:
                home, kept = f"datasets/{dataset_id}", bytearray()
                report = validate([content], kept.extend, on_progress=id, max_bytes=10**9)
                artifacts.put(f"{home}/report.json", report.model_dump_json().encode())
                if report.sha256 is None:
                    dataset.reject(report.error_count, f"{home}/report.json")
                else:
                    artifacts.put(f"{home}/examples.jsonl", bytes(kept))
                    dataset.validate(
                        f"{home}/examples.jsonl",
                        report.sha256,
                        report.examples,
                        report.duplicates,
                        f"{home}/report.json",
                        report.tool_lines,
                    )
            world.log.commit(dataset)
        with connect(world.settings) as connection:
            set_dataset_name(connection, dataset_id, name)
        return dataset_id

    return made
