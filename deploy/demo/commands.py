"""`ecolink demo`: a real fine-tuning job, end to end, with its bill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import typer
from rich.console import Console

from deploy.demo.account import demo_account, fresh_account, top_up
from deploy.demo.autopause import AutoPause, require_exact
from deploy.demo.chats import CorpusMissing, write_jsonl
from deploy.demo.preparing import BASE_MODEL, offer_base, roomiest_gpus, upload_ready
from deploy.demo.story import (
    Story,
    answers_table,
    bills_table,
    ledger_table,
    result_table,
    trial_balance_table,
)
from deploy.local.commands import fail
from deploy.local.errors import StackError
from deploy.local.stack import running, stack, up
from domain.core.money import exact_dollars
from gateway.cli.client import Client, ClientError, Endpoint
from infrastructure.settings import Settings
from infrastructure.store import connect
from projections.base_models import all_base_models
from projections.billing_ledger import balances

# The wizard's defaults but for three: a small model learns faster, its few steps are worth more
# checkpoints, and a CPU likes 2 x 8 examples a step better than 4 x 4.
HYPERPARAMETERS = {
    "epochs": 3,
    "learning_rate": 1e-3,
    "save_steps": 10,
    "micro_batch_size": 8,
    "gradient_accumulation": 2,
}
# Leases of five minutes, extended by one, as they are by default: only the minute is shorter.
SHORT_MINUTES = {
    "meter_minute_seconds": 5,
    "lease_seconds": 25,
    "lease_extension_seconds": 5,
}
PROMPT = "What is a computer?"
POLL_SECONDS = 0.3

commands = typer.Typer()


@commands.command()
def demo() -> None:
    """Fine-tune SmolLM2-135M on real chats, from upload to bill."""
    console = Console(highlight=False)
    try:
        with tempfile.TemporaryDirectory(prefix="ecolink-demo-") as folder:
            chats = Path(folder) / "chats.jsonl"
            rows = write_jsonl(chats)
            console.print(f"Starting EcoLink in {Settings().home.resolve()} ...")
            with stack(Settings()) as settings:
                _run(console, settings, chats, rows)
    except (StackError, CorpusMissing, ClientError) as error:
        fail(str(error))


@commands.command("demo-autopause")
def demo_autopause() -> None:
    """Two jobs drain one balance, pause at zero, and continue after a top-up."""
    console = Console(highlight=False)
    settings = Settings().model_copy(update=SHORT_MINUTES)
    try:
        with tempfile.TemporaryDirectory(prefix="ecolink-demo-") as folder:
            chats = Path(folder) / "chats.jsonl"
            rows = write_jsonl(chats)
            if running(settings.home) is not None:
                raise StackError(
                    f"EcoLink runs in {settings.home} with minutes of its own length; "
                    "stop it with `ecolink down`, or name another ECOLINK_HOME."
                )
            console.print(f"Starting EcoLink in {settings.home.resolve()}, 5 s a minute ...")
            with up(settings) as started:
                _drain(console, started.settings, chats, rows)
    except (StackError, CorpusMissing, ClientError) as error:
        fail(str(error))


def _drain(console: Console, settings: Settings, chats: Path, rows: int) -> None:
    account = fresh_account(settings, "autopause")
    assert settings.gateway_url is not None
    with Client(Endpoint(settings.gateway_url, account.key)) as client, Story(console) as story:
        offer_base(settings, story.say)
        dataset = upload_ready(client, story.say, chats, rows)
        form = {
            "dataset": dataset["id"],
            "base_model": BASE_MODEL,
            **roomiest_gpus(client),
            "hyperparameters": HYPERPARAMETERS | {"epochs": 1, "save_steps": 5},
        }
        hand = partial(top_up, settings, account.account_id)
        bills = AutoPause(client, hand, story.say).run(form)
        console.print()
        console.print(bills_table(bills))
        with connect(settings) as connection:
            console.print(trial_balance_table(balances(connection)))
    require_exact(bills)


def _run(console: Console, settings: Settings, chats: Path, rows: int) -> None:
    account = demo_account(settings)
    assert settings.gateway_url is not None
    with Client(Endpoint(settings.gateway_url, account.key)) as client, Story(console) as story:
        offer_base(settings, story.say)
        dataset = upload_ready(client, story.say, chats, rows)
        job = _train(client, story, dataset)
    if job["status"] != "registered":
        for line in client_log(settings, account.key, job["id"]):
            console.print(line, markup=False)
        fail(f"The job {job['status']}: {job['error_class']}")
    _summarise(console, settings, account.key, job)


def _train(client: Client, story: Story, dataset: dict[str, Any]) -> dict[str, Any]:
    """Approve a job and tell its story until its bill is closed."""
    form = {
        "dataset": dataset["id"],
        "base_model": BASE_MODEL,
        **roomiest_gpus(client),
        "hyperparameters": HYPERPARAMETERS,
    }
    quote = client.post("/estimates", form)
    priced = quote["estimate"]
    story.say(quote["fit"]["banner"])
    story.say(
        f"estimate [bold]{priced['low']['text']} to {priced['high']['text']}[/], "
        f"{priced['low_seconds']} to {priced['high_seconds']} s; "
        f"balance {quote['balance']['balance']['text']}"
    )
    approved = client.post("/jobs", form | {"wait": True}, idempotency_key=str(uuid4()))
    path = f"/jobs/{approved['id']}"
    story.say(f"approved [bold]{approved['id']}[/] at {approved['rate_per_hour']['text']} an hour")
    told = 0
    while True:
        job = client.get(path)
        events = client.get(f"{path}/timeline", after=told)["data"]
        steps = client.get(f"{path}/steps", after=max(0, job["step"] - 1))["data"]
        story.tell(events)
        told = events[-1]["position"] if events else told
        story.progress(job, steps[-1]["elapsed_seconds"] if steps else 0.0)
        if job["status"] in ("registered", "failed") and _is_settled(client, path, job):
            return job
        time.sleep(POLL_SECONDS)


def _is_settled(client: Client, path: str, job: dict[str, Any]) -> bool:
    """Whether every segment's meter is closed, and the job as we have it includes all of it."""
    closed = {
        event["fields"]["segment"]: event["fields"]["billed_seconds"]
        for event in client.get(f"{path}/timeline")["data"]
        if event["topic"] == "MeterClosed"
    }
    return job["segment"] in closed and job["billed_seconds"] == sum(closed.values())


def client_log(settings: Settings, key: str, job_id: str) -> list[str]:
    """The last lines of a job's log."""
    assert settings.gateway_url is not None
    with Client(Endpoint(settings.gateway_url, key)) as client:
        return [line["text"] for line in client.get(f"/jobs/{job_id}/log")["data"]]


def _summarise(console: Console, settings: Settings, key: str, job: dict[str, Any]) -> None:
    console.print()
    console.print(result_table(job))
    console.print(answers_table(PROMPT, _answers(settings, job)))
    assert settings.gateway_url is not None
    with Client(Endpoint(settings.gateway_url, key)) as client:
        postings = client.get("/ledger")["data"]
        balance = client.get("/account")["balance"]["micros"]
    console.print(ledger_table(postings))
    with connect(settings) as connection:
        console.print(trial_balance_table(balances(connection)))
    console.print(f"The balance of the demo account is {exact_dollars(balance)}.")
    console.print("`.venv/bin/ecolink audit verify` replays the log and checks all of this.")


def _answers(settings: Settings, job: dict[str, Any]) -> dict[str, str]:
    """The prompt's answers, made by the trainer's own code in a process of its own."""
    with connect(settings) as connection:
        (base,) = [row for row in all_base_models(connection) if row["name"] == BASE_MODEL]
    comparison = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "services.trainer.comparison"),
            *("--base", base["ref"], "--adapter", job["adapter_ref"], "--prompt", PROMPT),
            *("--precision", job["precision"]),
        ],
        env=os.environ | {"ECOLINK_ARTIFACTS_URL": settings.artifacts},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        text=True,
    )
    return json.loads(comparison.stdout.splitlines()[-1])
