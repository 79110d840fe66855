"""A dataset and its page."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from uuid import UUID

from domain.catalog.base_model import BaseModel
from domain.core.aggregate import because
from domain.core.identity import base_model_id
from domain.datasets.dataset import Dataset
from domain.training.token_lengths import TokenLengths
from gateway.http.read_your_writes import caught_up
from infrastructure.artifacts import Artifacts
from projections import PROJECTIONS
from tests.builders.platform import BASE_MODEL, Platform
from tests.builders.tiny_model import CHAT_TEMPLATE, TINY_SHAPE, make_tiny_tokenizer
from tests.gateway.web.signed_in import Browser

CONTEXT = 64

USER = {"role": "user", "content": "Where is my <order>?"}
ASSISTANT = {"role": "assistant", "content": "On its way & near."}
CHAT = {"messages": [{"role": "system", "content": "Be brief."}, USER, ASSISTANT]}


def import_base(
    platform: Platform,
    directory: Path,
    template: str = CHAT_TEMPLATE,
    name: str = BASE_MODEL,
    context: int = CONTEXT,
) -> BaseModel:
    make_tiny_tokenizer(template).save_pretrained(directory)
    ref = f"models/{name}"
    manifest = Artifacts(platform.settings.artifacts).put_directory(ref, directory)
    with because(platform.cause):
        platform.ecolink.import_base_model(
            name, ref, manifest.sha256, "LlamaForCausalLM", 1000, context, TINY_SHAPE
        )
    return platform.log.load(BaseModel, base_model_id(name))


def count(platform: Platform, dataset_id: UUID, base: BaseModel, *lengths: int) -> None:
    with because(platform.cause):
        dataset = platform.log.load(Dataset, dataset_id)
        dataset.record_tokens(base.name, base.manifest_sha256, TokenLengths.of(lengths))
        platform.log.commit(dataset)


def settle(browser: Browser) -> None:
    """Wait until the read models have all events."""
    assert caught_up(browser.client.app.state.backend, *PROJECTIONS)  # type: ignore[attr-defined]


def words(html: str) -> str:
    """Return the text of a page with single spaces."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def learnt(html: str) -> list[str]:
    """Return the highlighted texts of the examples, without the legend."""
    marks = re.findall(r'<mark class="learnt">(.*?)</mark>', html, flags=re.DOTALL)
    return [unescape(mark) for mark in marks[1:]]


def opened(browser: Browser, path: str, *, part: bool = False) -> str:
    answer = browser.client.get(path, headers=browser.htmx if part else {})
    assert answer.status_code == 200
    return answer.text
