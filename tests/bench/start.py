"""`make bench-start`: measure the time from approval to the first optimizer step, cold and warm."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any, TypeVar
from uuid import UUID, uuid4

import typer
from rich.console import Console
from rich.table import Table

from deploy.demo.account import acting_for_the_demo, fresh_account, top_up
from deploy.demo.preparing import (
    BASE_MODEL,
    SOURCE,
    await_deployment,
    await_ready,
    largest_gpus,
)
from deploy.local.commands import fail
from deploy.local.errors import StackError
from deploy.local.stack import up
from deploy.operator.model_import import offer_model
from domain.core.money import MICROS_PER_DOLLAR
from domain.training.phases import Phase
from gateway.cli.client import Client, ClientError, Endpoint
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from infrastructure.training.measurements import steps_of
from infrastructure.training.warm_start import READY
from tests.bench.aims import Verdict, conclude
from tests.builders.tiny_model import chats

T = TypeVar("T")

TINY = "tiny"
AIM_SECONDS = 1.5  # 95th percentile, warm
POLL_SECONDS = 0.05
JOB_SECONDS = 120.0
MONEY_MICROS = 100 * MICROS_PER_DOLLAR

MOMENTS = {"approve": "JobApproved", "GPU": "SegmentAllocated", "lease": "LeaseGranted"}
"""Stages that end with an event."""

PHASES = {
    "image pull": Phase.IMAGE_PULL,
    "model load": Phase.MODEL_LOAD,
    "dataset prep": Phase.DATASET_PREP,
}
"""Stages that a trainer reports."""


Start = dict[str, float]
"""Seconds of each stage of one job's start, in order, from the request to the end of the first
optimizer step."""


def bench(
    jobs: Annotated[int, typer.Option(min=2, help="How many jobs of each kind.")] = 20,
    examples: Annotated[int, typer.Option(min=40, help="Of their dataset.")] = 1000,
) -> None:
    """Measure cold and warm starts on a separate stack, one job after another."""
    console = Console(highlight=False)
    try:
        starts: dict[str, dict[str, list[Start]]] = {}
        with tempfile.TemporaryDirectory(prefix="ecolink-start-") as folder:
            home = Path(folder)
            home.chmod(0o755)
            for kind, warm_trainers in (("cold", 0), ("warm", 1)):
                settings = Settings(home=home / "home", warm_trainers=warm_trainers)
                console.print(f"{kind}: {jobs} jobs for each base, one after another")
                with up(settings) as started:
                    for base, source in _bases(home):
                        runs = _Runs(started.settings, base, source, home, examples)
                        runs.start()  # caches the base
                        starts.setdefault(base, {})[kind] = [runs.start() for _ in range(jobs)]
    except (StackError, ClientError) as error:
        fail(str(error))
    for base, by_kind in starts.items():
        console.print(_table(base, by_kind))
    conclude(console, [verdict([sum(start.values()) for start in starts[TINY]["warm"]])])


def _bases(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, source) of a tiny base, and of SmolLM2 if its package is installed."""
    directory = folder / TINY
    if not directory.exists():
        subprocess.run(
            [sys.executable, "-P", "-m", "tests.builders.tiny_model", str(directory)],
            check=True,
            stderr=subprocess.DEVNULL,
        )
    yield TINY, str(directory)
    if find_spec(SOURCE.partition(":")[2]) is not None:
        yield BASE_MODEL, SOURCE


class _Runs:
    """Jobs on one base, each started alone and cancelled after its first steps."""

    def __init__(
        self, settings: Settings, base: str, source: str, folder: Path, examples: int
    ) -> None:
        self._settings, self._base = settings, base
        account = fresh_account(settings, "start")
        top_up(settings, account.account_id, MONEY_MICROS, "start")
        with acting_for_the_demo(settings) as ecolink:
            offer_model(settings, ecolink, source, base)
        await_deployment(settings, base)
        assert settings.gateway_url is not None
        self._client = Client(Endpoint(settings.gateway_url, account.key))
        path = folder / "chats.jsonl"
        path.write_text("".join(json.dumps(chat) + "\n" for chat in chats(examples)))
        uploaded = self._client.upload(path, "chats")
        dataset = await_ready(self._client, lambda _: None, uploaded, base)
        place = largest_gpus(self._client)
        self._form = {"dataset": dataset["id"], "base_model": base, "wait": True, **place}

    def start(self) -> Start:
        """Run one job until its first step, and wait until its pod is gone. Raise ClientError."""
        _until(self._is_warm)
        requested_at = datetime.now(UTC)
        job = self._client.post("/jobs", self._form, idempotency_key=str(uuid4()))
        path = f"/jobs/{job['id']}"
        step = _until(lambda: self._first_step(UUID(job["id"].removeprefix("ftjob-"))))
        self._client.post(f"{path}/cancel", {})
        events = _until(lambda: self._ended(path))
        return _stages(requested_at, step, events)

    def _is_warm(self) -> bool:
        """Return True if all warm trainers are ready."""
        ready = list((self._settings.home / "warm").glob(f"*/{READY}"))
        return len(ready) == self._settings.warm_trainers

    def _first_step(self, job_id: UUID) -> dict[str, Any] | None:
        with connect(self._settings) as connection:
            steps = steps_of(connection, job_id)
        return steps[0] if steps else None

    def _ended(self, path: str) -> dict[str, dict[str, Any]] | None:
        """Return the first event of each topic, when the job's pod is gone."""
        events = self._client.get(f"{path}/timeline")["data"]
        by_topic = {event["topic"]: event for event in reversed(events)}
        pods = list((self._settings.home / "pods").glob("*/pod.json"))
        return by_topic if "MeterClosed" in by_topic and not pods else None


def _stages(
    requested_at: datetime, step: dict[str, Any], events: dict[str, dict[str, Any]]
) -> Start:
    """Return the stages of a start, from the log and the trainer."""
    stages, before = dict[str, float](), requested_at
    launched = step["measured_at"] - timedelta(seconds=step["elapsed_seconds"])
    moments = [
        (stage, datetime.fromisoformat(events[topic]["happened_at"]))
        for stage, topic in MOMENTS.items()
    ]
    for stage, moment in [*moments, ("launch", launched)]:
        stages[stage] = (moment - before).total_seconds()
        before = moment
    phase_seconds = events["SegmentEnded"]["fields"]["phase_seconds"]
    for stage, phase in PHASES.items():
        stages[stage] = phase_seconds[phase.value]
    stages["first step"] = step["elapsed_seconds"] - sum(stages[stage] for stage in PHASES)
    return stages


def _until(condition: Callable[[], T | None]) -> T:
    """Return the first true result of a condition. Raise ClientError after a timeout."""
    deadline = time.monotonic() + JOB_SECONDS
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise ClientError(f"a job took longer than {JOB_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
    return result


def _table(base: str, starts: dict[str, list[Start]]) -> Table:
    table = Table(title=f"Approve to first optimizer step, {base}, seconds", title_justify="left")
    table.add_column("stage")
    for kind in starts:
        table.add_column(f"{kind}\nmedian", justify="right")
        table.add_column("\n95th pct", justify="right")
    rows = {
        stage: [[start[stage] for start in each] for each in starts.values()]
        for stage in next(iter(starts.values()))[0]
    }
    rows["together"] = [[sum(start.values()) for start in each] for each in starts.values()]
    for stage, by_kind in rows.items():
        figures = (f(seconds) for seconds in by_kind for f in (median, _p95))
        table.add_row(stage, *(f"{figure:.3f}" for figure in figures))
    return table


def verdict(seconds: Sequence[float]) -> Verdict:
    """Compare warm starts with the aim, on a base whose steps take no time."""
    p95 = _p95(seconds)
    return Verdict(
        f"{TINY}, warm: 95th percentile {p95:.3f} s", f"{AIM_SECONDS} s", p95 <= AIM_SECONDS
    )


def _p95(seconds: Sequence[float]) -> float:
    return quantiles(seconds, n=20, method="inclusive")[-1]


if __name__ == "__main__":
    typer.run(bench)
