"""Datasets from a hub on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import UUID

import pytest

from infrastructure.settings import Settings
from tests.builders.platform import Platform
from tests.gateway.cli.conftest import Owner
from tests.localhub.server import COMMIT, READ_TOKEN, Hub, Repository, local_hub

pytestmark = pytest.mark.full


@pytest.fixture
def hub() -> Iterator[Hub]:
    with local_hub() as running:
        yield running


@pytest.fixture
def settings(settings: Settings, hub: Hub) -> Settings:
    """Settings of a platform with a hub."""
    return settings.model_copy(update={"hub_endpoint": hub.url})


def test_a_dataset_comes_from_a_private_repository(
    me: Owner, platform: Platform, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.dumps({"prompt": str(n), "completion": "b"}) for n in (1, 2, 2)]
    files = {"train.jsonl": "\n".join(lines).encode()}
    hub.datasets["acme/chats"] = Repository(files, private=True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    refused = me.refused("datasets", "from-hub", "acme/chats", code=2)
    assert "repository" in refused
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    options = ("--keep-duplicates", "--no-follow")
    made = me.read("datasets", "from-hub", "hf:acme/chats", "--name", "chats", *options)
    assert (made["name"], made["hub_commit"]) == ("chats", COMMIT)
    platform.validate_upload(UUID(made["id"]))
    platform.project()
    assert me.read("datasets", "show", made["id"])["examples"] == 3
