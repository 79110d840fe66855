"""`make bench-estimates`: run real jobs of varied size, and compare estimates with bills."""

from __future__ import annotations

import json
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import typer
from rich.console import Console

from deploy.demo.account import DemoAccount, fresh_account, top_up
from deploy.demo.chats import CorpusMissing, demo_chats
from deploy.demo.preparing import BASE_MODEL, largest_gpus, offer_base, upload_ready
from deploy.local.commands import fail
from deploy.local.errors import StackError
from deploy.local.stack import stack
from deploy.operator.estimates import show
from deploy.operator.store import open_store
from domain.core.money import MICROS_PER_DOLLAR
from gateway.cli.client import Client, ClientError, Endpoint
from infrastructure.settings import Settings
from projections import ESTIMATES
from projections.estimate_accuracy import scored_jobs, summary

POLL_SECONDS = 1.0
JOB_SECONDS = 900.0
MONEY_MICROS = 100 * MICROS_PER_DOLLAR

SMALL_MODULES, LARGE_MODULES = ["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj"]


@dataclass(frozen=True)
class Variant:
    """The size of a job: dataset and hyperparameters."""

    rows: int
    chats_per_row: int  # joined, so that jobs have examples of different length
    hyperparameters: dict[str, Any]
    name: str = "varied size"
    calls_tools: bool = False
    continues: str | None = None  # name of the variant whose model the job continues

    def write(self, path: Path) -> int:
        chats = demo_chats(self.rows * self.chats_per_row)
        rows = [
            {
                "messages": [
                    message
                    for chat in chats[start : start + self.chats_per_row]
                    for message in chat["messages"]
                ]
            }
            for start in range(0, len(chats), self.chats_per_row)
        ]
        if self.calls_tools:
            rows = [_with_tools(row, number) for number, row in enumerate(rows)]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return len(rows)


def _with_tools(row: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a chat that calls a tool before its last answer."""
    *before, answer = row["messages"]
    order = f"A-{number:04d}"
    call = {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": "find_order", "arguments": json.dumps({"number": order})},
    }
    found = {"role": "tool", "tool_call_id": call["id"], "content": f"{order}: sent"}
    parameters = {
        "type": "object",
        "properties": {"number": {"type": "string"}},
        "required": ["number"],
    }
    function = {"name": "find_order", "description": "Find an order.", "parameters": parameters}
    return {
        "messages": [*before, {"role": "assistant", "tool_calls": [call]}, found, answer],
        "tools": [{"type": "function", "function": function}],
    }


ALL_LINEAR = {"target_modules": ["all-linear"]}
UNTIL_STALE = {"epochs": 12, "eval_steps": 4, "early_stopping_patience": 2}
KINDS = (
    ("rsLoRA", {"use_rslora": True, "lora_r": 64, "learning_rate": 2e-4}),
    ("all linear layers", ALL_LINEAR),
    ("DoRA", {"use_dora": True}),
    ("DoRA, all linear layers", ALL_LINEAR | {"use_dora": True}),
    ("rsLoRA, all linear layers", ALL_LINEAR | {"use_rslora": True, "learning_rate": 2e-4}),
    ("early stop", UNTIL_STALE),
    ("early stop, best state", UNTIL_STALE | {"load_best_model_at_end": True, "n_checkpoints": 3}),
    ("tool calls", {}),
    ("warm start", {}),
    ("warm start, best state", {"load_best_model_at_end": True, "eval_steps": 4}),
)
"""Kinds of jobs, and the hyperparameters of each."""


def kinds() -> list[Variant]:
    """Return one job of each kind."""
    parents = {"warm start": "rsLoRA", "warm start, best state": "DoRA"}
    return [
        Variant(
            rows=100,
            chats_per_row=1 + number % 2,
            hyperparameters={"epochs": 2, "learning_rate": 1e-3, "save_steps": 20, **fields},
            name=name,
            calls_tools=name == "tool calls",
            continues=parents.get(name),
        )
        for number, (name, fields) in enumerate(KINDS)
    ]


def variants(count: int, seed: int) -> list[Variant]:
    """Jobs of varied size, in the same order for each seed. Training is most of each."""
    lot = random.Random(seed)
    return [_variant(lot, number) for number in range(count)]


def _variant(lot: random.Random, number: int) -> Variant:
    chats, epochs, chats_per_row = lot.randint(140, 420), lot.choice([1, 2, 3]), lot.randint(1, 3)
    return Variant(
        rows=chats // (epochs * chats_per_row),
        chats_per_row=chats_per_row,
        hyperparameters={
            "epochs": epochs,
            "learning_rate": 1e-3,
            "lora_r": lot.choice([8, 16, 32]),
            "micro_batch_size": lot.choice([4, 8]),
            "gradient_accumulation": lot.choice([1, 2, 4]),
            "target_modules": lot.choice([SMALL_MODULES, LARGE_MODULES]),
            "max_sequence_length": lot.choice([None, None, 64]),
            "save_steps": 1000,
            "seed": number,
        },
    )


def bench(
    jobs: Annotated[int, typer.Option(min=1, help="How many jobs.")] = 20,
    seed: Annotated[int, typer.Option(help="Of their sizes.")] = 1,
    by_kind: Annotated[
        bool, typer.Option("--kinds", help="Run one job of each kind instead.")
    ] = False,
) -> None:
    """Run SmolLM2 jobs of varied size one after another, and show each range with its bill."""
    console = Console(highlight=False)
    try:
        with stack(Settings()) as settings:
            wanted = kinds() if by_kind else variants(jobs, seed)
            account_id = _run_jobs(settings, console, wanted)
            with open_store() as store:
                store.fold(ESTIMATES)
                show(
                    scored_jobs(store.connection, account_id), summary(store.connection, account_id)
                )
    except (StackError, CorpusMissing, ClientError) as error:
        fail(str(error))


def _run_jobs(settings: Settings, console: Console, wanted: list[Variant]) -> UUID:
    """Run the jobs on a running stack, and return the billed account."""
    account = fresh_account(settings, "estimates")
    top_up(settings, account.account_id, MONEY_MICROS, "estimates")
    offer_base(settings, console.print)
    models: dict[str, str] = {}
    for number, variant in enumerate(wanted, 1):
        title = f"job {number} of {len(wanted)}, {variant.name}"
        base = models[variant.continues] if variant.continues else BASE_MODEL
        models[variant.name] = _run_job(settings, console, account, variant, title, base)
    return account.account_id


def _run_job(
    settings: Settings,
    console: Console,
    account: DemoAccount,
    variant: Variant,
    title: str,
    base: str,
) -> str:
    """Run a job to its end. Return the name of its model."""
    assert settings.gateway_url is not None
    with (
        Client(Endpoint(settings.gateway_url, account.key)) as client,
        tempfile.TemporaryDirectory(prefix="ecolink-bench-") as folder,
    ):
        path = Path(folder) / "chats.jsonl"
        dataset = upload_ready(client, lambda _: None, path, variant.write(path))
        form = {
            "dataset": dataset["id"],
            "base_model": base,
            **largest_gpus(client),
            "hyperparameters": variant.hyperparameters,
        }
        job = client.post("/jobs", form, idempotency_key=str(uuid4()))
        job = _await_end(client, f"/jobs/{job['id']}")
    console.print(
        f"{title}: {dataset['examples']} examples, {job['total_steps']} steps, "
        f"{job['billed_seconds']} s, {job['cost']['text']}"
        + (f". {job['stop_note']}" if job["stop_note"] else "")
    )
    return job["model"]


def _await_end(client: Client, path: str) -> dict[str, Any]:
    """Wait until a job is registered and its meter is closed. Raise ClientError on failure."""
    deadline = time.monotonic() + JOB_SECONDS
    while time.monotonic() < deadline:
        job = client.get(path)
        if job["status"] in ("failed", "cancelled", "paused"):
            raise ClientError(f"{job['id']} {job['status']}")
        events = client.get(f"{path}/timeline")["data"]
        if job["status"] == "registered" and any(e["topic"] == "MeterClosed" for e in events):
            return job
        time.sleep(POLL_SECONDS)
    raise ClientError(f"{path} took longer than {JOB_SECONDS:.0f} s")


if __name__ == "__main__":
    typer.run(bench)
