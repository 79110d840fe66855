"""`ecolink bench resume`: trainers are stopped and killed anywhere, and nothing must show it."""

from __future__ import annotations

import signal
import tempfile
from importlib.util import find_spec
from pathlib import Path
from random import Random
from statistics import median
from typing import Annotated

import typer
from rich.console import Console

from deploy.bench.trainer_runs import (
    ACCUMULATION,
    SAVE_STEPS,
    STEPS,
    TINY,
    Setting,
    StopPoint,
    Trainers,
    nats_server,
)
from deploy.demo.preparing import BASE_MODEL, SOURCE
from domain.estimate import Precision

PLACES = ("forward", "backward", "between", "save", "kill")
KILL_PLACES = ("forward", "backward", "between", "save")


def bench(
    points: Annotated[int, typer.Option(min=1, help="Stop points of each setting.")] = 20,
    large_points: Annotated[
        int, typer.Option(min=0, help="Of them on SmolLM2, if it is there.")
    ] = 4,
    ranks: Annotated[int, typer.Option(min=1, help="Up to how many ranks.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the stop points.")] = 1,
) -> None:
    """Compare every loss and the adapter of runs that were interrupted with a run that was not."""
    console = Console(highlight=False)
    settings = [
        (Setting(TINY, precision, count), points)
        for count in range(1, ranks + 1)
        for precision in (Precision.BF16, Precision.NF4)
    ]
    if large_points and find_spec(SOURCE.partition(":")[2]) is not None:
        settings.append((Setting(BASE_MODEL, Precision.BF16, 1), large_points))
    same = 0
    with tempfile.TemporaryDirectory(prefix="ecolink-resume-") as folder, nats_server() as url:
        trainers = Trainers(Path(folder), url)
        for setting, count in settings:
            console.print(f"[bold]{setting}[/]")
            same += _compare(trainers, setting, count, Random(f"{seed}:{setting}"), console)
    cases = sum(count for _, count in settings)
    console.print(f"[bold]{same} of {cases} identical[/]")
    if same != cases:
        raise typer.Exit(1)


def _compare(
    trainers: Trainers, setting: Setting, count: int, random: Random, console: Console
) -> int:
    """How many of so many interrupted runs of a setting ended as the one that was not."""
    trainers.offer(setting.base)
    same, latencies = 0, []
    expected, step_seconds = trainers.uninterrupted(setting)
    for turn in range(count):
        point = draw(random, turn)
        found, latency = trainers.interrupted(setting, point)
        difference = expected.differs(found)
        same += difference is None
        verdict = "identical" if difference is None else f"[red]differs: {difference}[/]"
        console.print(f"  {point}: {verdict}, gone after {latency:.2f} s")
        if point.signal is signal.SIGTERM:
            latencies.append(latency)
    console.print(
        f"  stop to exit {median(latencies):.2f} s in the middle, "
        f"{max(latencies):.2f} s at most; a step takes {step_seconds:.2f} s"
    )
    return same


def draw(random: Random, turn: int) -> StopPoint:
    """A place of each kind in turn, at a moment that chance chooses, before the end of the run."""
    kind = PLACES[turn % len(PLACES)]
    place = random.choice(KILL_PLACES) if kind == "kill" else kind
    times = STEPS // SAVE_STEPS - 1 if place == "save" else (STEPS - 1) * ACCUMULATION
    number = signal.SIGKILL if kind == "kill" else signal.SIGTERM
    return StopPoint(place, random.randint(1, times), number)
