"""`make bench-estimates`: run real jobs of varied size, and compare estimates with bills."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import typer
from rich.console import Console
from rich.table import Table

from deploy.demo.account import DemoAccount, fresh_account, top_up
from deploy.demo.preparing import BASE_MODEL, await_ready, largest_gpus, offer_base
from deploy.local.commands import fail
from deploy.local.errors import StackError
from deploy.local.stack import stack
from deploy.operator.estimates import NONE_ENDED
from deploy.operator.store import open_store
from domain.core.money import MICROS_PER_DOLLAR, exact_dollars
from domain.jobs.public_id import job_name
from domain.training.phases import Phase
from gateway.cli.client import Client, ClientError, Endpoint, Unreachable
from infrastructure.settings import Settings
from projections import ESTIMATES
from projections.estimate_accuracy import Scored, summary
from projections.estimates import report_rows
from projections.projection import Row
from tests.bench.corpus import CorpusMissing
from tests.bench.estimated_jobs import Variant, kinds, variants

POLL_SECONDS = 1.0
JOB_SECONDS = 600.0
MONEY_MICROS = 100 * MICROS_PER_DOLLAR


@dataclass(frozen=True)
class Ran:
    """A job that ran: its variant, its name, and the load when it was approved and ended."""

    variant: str
    job: str
    model: str
    loads: tuple[float, float]


def bench(
    jobs: Annotated[int, typer.Option(min=1, help="How many jobs.")] = 20,
    seed: Annotated[int, typer.Option(help="Of their sizes.")] = 1,
    by_kind: Annotated[
        bool, typer.Option("--kinds", help="Run one job of each kind instead.")
    ] = False,
    first: Annotated[int, typer.Option(min=1, help="Number of the first job.")] = 1,
    last: Annotated[int | None, typer.Option(help="Number of the last job.")] = None,
) -> None:
    """Run SmolLM2 jobs of varied size one after another, and show each range with its bill.

    A job that fails or takes too long does not end the benchmark.
    """
    console = Console(highlight=False, width=160)
    wanted = (kinds() if by_kind else variants(jobs, seed))[first - 1 : last]
    try:
        with stack(Settings()) as settings:
            account_id, ran = _run_jobs(settings, console, wanted)
            with open_store() as store:
                store.fold(ESTIMATES)
                rows = {job_name(row["job_id"]): row for row in report_rows(store.connection)}
                console.print(_table(ran, rows))
                console.print(str(summary(store.connection, account_id) or NONE_ENDED))
    except (StackError, CorpusMissing, ClientError) as error:
        fail(str(error))
    if len(ran) < len(wanted):
        raise typer.Exit(1)


def _run_jobs(
    settings: Settings, console: Console, wanted: list[Variant]
) -> tuple[UUID, list[Ran]]:
    """Run the jobs on a running stack. Return the billed account, and the jobs that ended."""
    account = fresh_account(settings, "estimates")
    top_up(settings, account.account_id, MONEY_MICROS, "estimates")
    offer_base(settings, console.print)
    models: dict[str, str] = {}
    ran: list[Ran] = []
    for number, variant in enumerate(wanted, 1):
        title = f"job {number} of {len(wanted)}, {variant.name}"
        base = models.get(variant.continues, "") if variant.continues else BASE_MODEL
        if not base:
            console.print(f"[red]{title}: the job that it continues has no model[/]")
            continue
        try:
            ended = _run_job(settings, console, account, variant, title, base)
        except (ClientError, LookupError, OSError, ValueError) as error:
            console.print(f"[red]{title}: {type(error).__name__}: {error}[/]")
            continue
        models[variant.name] = ended.model
        ran.append(ended)
    return account.account_id, ran


def _run_job(
    settings: Settings,
    console: Console,
    account: DemoAccount,
    variant: Variant,
    title: str,
    base: str,
) -> Ran:
    """Run a job to its end. Raise ClientError if it fails; cancel it if it takes too long."""
    assert settings.gateway_url is not None
    with (
        Client(Endpoint(settings.gateway_url, account.key)) as client,
        tempfile.TemporaryDirectory(prefix="ecolink-bench-") as folder,
    ):
        path = Path(folder) / "chats.jsonl"
        variant.write(path)
        dataset = await_ready(client, lambda _: None, client.upload(path, "chats"))
        form = {
            "dataset": dataset["id"],
            "base_model": base,
            **largest_gpus(client),
            "hyperparameters": dict(variant.hyperparameters),
            "wait": True,  # until a cancelled job has ended
            "max_cost": None,  # the whole cost is compared
        }
        load = os.getloadavg()[0]
        job = client.post("/jobs", form, idempotency_key=str(uuid4()))
        job = _await_end(client, f"/jobs/{job['id']}")
    approved = job["estimate"]
    console.print(
        f"{title}: {dataset['examples']} examples, {job['total_steps']} steps, "
        f"{job['billed_seconds']} s of {approved['low_seconds']} to {approved['high_seconds']} s, "
        f"{job['cost']['text']}" + (f". {job['stop_note']}" if job["stop_note"] else "")
    )
    return Ran(variant.name, job["id"], job["model"], (load, os.getloadavg()[0]))


def _await_end(client: Client, path: str) -> dict[str, Any]:
    """Wait until a job is registered and its meter is closed.

    A gateway that does not respond on a busy machine is asked again. Raise ClientError if the job
    fails, is paused or takes too long. It is then cancelled, so that it does not slow other jobs.
    """
    deadline, status = time.monotonic() + JOB_SECONDS, "unknown"
    while time.monotonic() < deadline and status not in ("failed", "cancelled", "paused"):
        with suppress(Unreachable):
            job = client.get(path)
            status = job["status"]
            events = client.get(f"{path}/timeline")["data"]
            if status == "registered" and any(e["topic"] == "MeterClosed" for e in events):
                return job
        time.sleep(POLL_SECONDS)
    with suppress(ClientError):
        client.post(f"{path}/cancel", {})
    raise ClientError(f"{path} is {status}, at most {JOB_SECONDS:.0f} s after its approval")


def _table(ran: list[Ran], rows: dict[str, Row]) -> Table:
    """Return a table with a row for each job: its range, its bill, and its training time."""
    table = Table(box=None)
    table.add_column("kind")
    for name in (
        *("tokens", "range s", "took s", "range", "cost", "inside", "at", "from"),
        *("training s", "reference", "evaluation", "start", "load"),
    ):
        table.add_column(name, justify="right")
    for each in ran:
        if (row := rows.get(each.job)) is None or row["actual_micros"] is None:
            continue
        scored = Scored.of(row)
        spent = row["phase_seconds"]
        start = sum(spent.get(phase, 0.0) for phase in (Phase.IMAGE_PULL, Phase.MODEL_LOAD))
        table.add_row(
            each.variant,
            f"{scored.tokens:,}",
            f"{scored.low_seconds}-{scored.high_seconds}",
            str(scored.actual_seconds),
            f"{exact_dollars(scored.low_micros)}-{exact_dollars(scored.high_micros)}",
            exact_dollars(row["actual_micros"]),
            "yes" if scored.inside else "no",
            "" if scored.position is None else f"{scored.position:.0%}",
            f"{scored.calibrated_from} jobs" if scored.calibrated_from else "catalog",
            *(
                f"{spent[phase]:.1f} ({spent[phase] / row['model_seconds'][phase]:.2f})"
                if phase in spent and row["model_seconds"].get(phase)
                else ""
                for phase in (Phase.TRAINING, Phase.REFERENCE, Phase.EVALUATION)
            ),
            f"{start:.1f}",
            "{:.1f}, {:.1f}".format(*each.loads),
        )
    return table


if __name__ == "__main__":
    typer.run(bench)
