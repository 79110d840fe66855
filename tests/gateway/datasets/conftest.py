"""Datasets and their pages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from domain.catalog.base_model import BaseModel
from domain.core.aggregate import because
from domain.datasets.dataset import Dataset
from domain.training.token_lengths import TokenLengths
from gateway.http.read_your_writes import caught_up
from infrastructure.accounts.profiles import set_dataset_name
from infrastructure.postgres.store import connect
from projections import PROJECTIONS
from tests.builders.platform import Platform
from tests.gateway.web.signed_in import Browser

CONTEXT = 64

USER = {"role": "user", "content": "Where is my <order>?"}
ASSISTANT = {"role": "assistant", "content": "On its way & near."}
CHAT = {"messages": [{"role": "system", "content": "Be brief."}, USER, ASSISTANT]}
SHORT = {"messages": [USER, ASSISTANT]}


@dataclass(frozen=True)
class Pages:
    """The dataset pages of a user."""

    browser: Browser
    platform: Platform

    def upload(self, *lines: Any, name: str = "chats", validated: bool = True) -> UUID:
        """Create a dataset from lines."""
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        content = "".join(text + "\n" for text in texts).encode()
        dataset_id = self.platform.upload(self.browser.person.account_id, content)
        if validated:
            self.platform.validate_upload(dataset_id)
        with connect(self.platform.settings) as connection:
            set_dataset_name(connection, dataset_id, name)
        return dataset_id

    def count(self, dataset_id: UUID, base: BaseModel, *lengths: int) -> None:
        """Record the lengths of a dataset's examples."""
        with because(self.platform.cause):
            dataset = self.platform.log.load(Dataset, dataset_id)
            dataset.record_tokens(base.name, base.manifest_sha256, TokenLengths.of(lengths))
            self.platform.log.commit(dataset)

    def open(self, path: str = "", *, part: bool = False) -> str:
        """Load a page below /datasets when the read models have all events."""
        backend = self.browser.client.app.state.backend  # type: ignore[attr-defined]
        assert caught_up(backend, *PROJECTIONS, patience_seconds=60)
        headers = self.browser.htmx if part else {}
        answer = self.browser.client.get(f"/datasets{path}", headers=headers)
        assert answer.status_code == 200
        return answer.text

    def examples(self, dataset_id: UUID, query: str = "") -> str:
        return self.open(f"/{dataset_id}/examples{query}")


@pytest.fixture
def pages(browser: Browser, platform: Platform) -> Pages:
    return Pages(browser, platform)


@pytest.fixture
def base(platform: Platform) -> BaseModel:
    """A base model with a tokenizer in the store."""
    return platform.store_base(context=CONTEXT)
