"""`ecolink demo` and `ecolink demo-autopause`, which run real fine-tuning jobs and show bills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import typer
from rich.console import Console

from deploy.demo.account import DemoAccount, demo_account, fresh_account, top_up
from deploy.demo.autopause import AutoPause, is_settled, require_exact
from deploy.demo.preparing import BASE_MODEL, await_ready, largest_gpus, offer_base
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
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from projections.base_models import all_base_models
from projections.billing_ledger import balances

# The wizard's defaults, with three exceptions. A small model tolerates a higher learning rate, a
# short run needs frequent checkpoints, and steps of 2 x 8 are faster on a CPU than steps of 4 x 4.
HYPERPARAMETERS = {
    "epochs": 3,
    "learning_rate": 1e-3,
    "save_steps": 10,
    "micro_batch_size": 8,
    "gradient_accumulation": 2,
}
# Leases of five minutes, extended by one minute, as by default, but with shorter minutes.
SHORT_MINUTES = {
    "meter_minute_seconds": 5,
    "lease_seconds": 25,
    "guarantee_factor": 0,  # only the balance pauses the jobs
    "lease_extension_seconds": 5,
}
PROMPT = "What is a tractor?"
POLL_SECONDS = 0.3

commands = typer.Typer()


@commands.command()
def demo() -> None:
    """Fine-tune SmolLM2-135M on the sample chats, from the upload to the bill."""
    console = Console(highlight=False)
    with _errors_reported():
        console.print(f"Starting EcoLink in {Settings().home.resolve()} ...")
        with stack(Settings()) as settings:
            _run(console, settings)


@commands.command("demo-autopause")
def demo_autopause() -> None:
    """Run two jobs that use up one balance, pause at zero, and resume after a top-up."""
    console = Console(highlight=False)
    settings = Settings().model_copy(update=SHORT_MINUTES)
    with _errors_reported():
        if running(settings.home) is not None:
            raise StackError(
                f"EcoLink already runs in {settings.home} with longer metered minutes. Stop it "
                "with `ecolink down`, or set another ECOLINK_HOME."
            )
        console.print(
            f"Starting EcoLink in {settings.home.resolve()}, with metered minutes of 5 s ..."
        )
        with up(settings) as started:
            _drain(console, started.settings)


@contextmanager
def _errors_reported() -> Iterator[None]:
    try:
        yield
    except (StackError, ClientError) as error:
        fail(str(error))


def _drain(console: Console, settings: Settings) -> None:
    account = fresh_account(settings, "autopause")
    with _client(settings, account) as client, Story(console) as story:
        form = _form(settings, client, story)
        form["hyperparameters"] = HYPERPARAMETERS | {"epochs": 1, "save_steps": 5}
        confirm = partial(top_up, settings, account.account_id)
        bills = AutoPause(client, confirm, story.say).run(form)
    console.print()
    console.print(bills_table(bills))
    with connect(settings) as connection:
        console.print(trial_balance_table(balances(connection)))
    require_exact(bills)


def _run(console: Console, settings: Settings) -> None:
    with _client(settings, demo_account(settings)) as client:
        with Story(console) as story:
            job = _train(client, story, _form(settings, client, story))
        if job["status"] != "registered":
            for line in client.get(f"/jobs/{job['id']}/log")["data"]:
                console.print(line["text"], markup=False)
            fail(f"The job has the state {job['status']}: {job['error_class']}")
        console.print()
        console.print(result_table(job))
        console.print(answers_table(PROMPT, _answers(settings, job)))
        console.print(ledger_table(client.get("/ledger")["data"]))
        balance = client.get("/account")["balance"]["micros"]
    with connect(settings) as connection:
        console.print(trial_balance_table(balances(connection)))
    console.print(f"The balance of the demo account is {exact_dollars(balance)}.")
    console.print("Compare all of this with the event log: `ecolink audit verify`.")


def _client(settings: Settings, account: DemoAccount) -> Client:
    assert settings.gateway_url is not None
    return Client(Endpoint(settings.gateway_url, account.key))


def _form(settings: Settings, client: Client, story: Story) -> dict[str, Any]:
    """Prepare the base model and the dataset. Return the form of a job."""
    offer_base(settings, story.say)
    sample = client.post("/datasets/from-sample", {})
    return {
        "dataset": await_ready(client, story.say, sample)["id"],
        "base_model": BASE_MODEL,
        **largest_gpus(client),
        "hyperparameters": HYPERPARAMETERS,
    }


def _train(client: Client, story: Story, form: dict[str, Any]) -> dict[str, Any]:
    """Approve a job and show its progress until all its time is billed."""
    quote = client.post("/estimates", form)
    priced = quote["estimate"]
    story.say(quote["fit"]["banner"])
    story.say(
        f"estimate [bold]{priced['low']['text']} to {priced['high']['text']}[/], "
        f"{priced['low_seconds']:,} to {priced['high_seconds']:,} s; balance "
        f"{quote['balance']['balance']['text']}"
    )
    approved = client.post("/jobs", form | {"wait": True}, idempotency_key=str(uuid4()))
    path = f"/jobs/{approved['id']}"
    story.say(f"approved [bold]{approved['id']}[/] at {approved['rate_per_hour']['text']} an hour")
    position = 0
    while True:
        job = client.get(path)
        events = client.get(f"{path}/timeline", after=position)["data"]
        steps = client.get(f"{path}/steps", after=max(0, job["step"] - 1))["data"]
        story.show(events)
        position = events[-1]["position"] if events else position
        story.progress(job, steps[-1]["elapsed_seconds"] if steps else 0.0)
        if job["status"] in ("registered", "failed") and is_settled(client, job):
            return job
        time.sleep(POLL_SECONDS)


def _answers(settings: Settings, job: dict[str, Any]) -> dict[str, str]:
    """Return the answers to the prompt. The trainer's code generates them in another process."""
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
