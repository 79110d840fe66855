"""`make bench-resume`: stop and kill trainers anywhere, and compare with an uninterrupted run."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass
from importlib.util import find_spec
from random import Random
from statistics import median
from typing import Annotated

import typer
from rich.console import Console

from deploy.demo.preparing import BASE_MODEL, SOURCE
from domain.training.precision import Precision
from tests.bench.stop_points import Place
from tests.bench.trainer_runs import (
    ACCUMULATION,
    KINDS,
    SAVE_STEPS,
    STEPS,
    TINY,
    Setting,
    StopPoint,
    Trainers,
    trainers,
)

PLACES = tuple(Place)
OTHER_KINDS = [each for each in KINDS if each != "LoRA"]
EXIT_SECONDS = 0.3
"""Aim for a stop, beyond the step in progress: copy the state, store it and exit."""


def bench(
    points: Annotated[int, typer.Option(min=1, help="Stop points of each setting.")] = 20,
    large_points: Annotated[
        int, typer.Option(min=0, help="Of them on SmolLM2, if it is there.")
    ] = 4,
    compiled_points: Annotated[
        int, typer.Option(min=0, help="Of the tiny model with compiled layers, on one rank.")
    ] = 2,
    ranks: Annotated[int, typer.Option(min=1, help="Up to how many ranks.")] = 2,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", help=f"Only these kinds of jobs: {', '.join(KINDS)}."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the stop points.")] = 1,
) -> None:
    """Compare every loss and the adapter of interrupted runs with an uninterrupted run."""
    console = Console(highlight=False)
    settings = [
        (Setting(TINY, precision, count), points)
        for count in range(1, ranks + 1)
        for precision in (Precision.BF16, Precision.NF4)
    ]
    if large_points and find_spec(SOURCE.partition(":")[2]) is not None:
        settings.append((Setting(BASE_MODEL, Precision.BF16, 1), large_points))
    if compiled_points and shutil.which("g++") is not None:
        settings.append((Setting(TINY, Precision.BF16, 1, compiled=True), compiled_points))
    elif compiled_points:
        console.print("compiled layers are left out: this machine has no g++")
    if kinds is None:
        settings += [(Setting(TINY, Precision.BF16, 1, kind=each), points) for each in OTHER_KINDS]
    else:
        settings = [(Setting(TINY, Precision.BF16, 1, kind=each), points) for each in kinds]
    tally = Tally()
    with trainers() as runs:
        for setting, count in settings:
            runs.offer(setting.base)
            console.print(f"[bold]{setting}[/]")
            random = Random(f"{seed}:{setting}")
            stops = [draw(random, turn) for turn in range(count)]
            interrupt(runs, setting, stops, tally, console)
    console.print(f"[bold]{tally.same} of {tally.cases} identical[/]")
    console.print(
        f"{tally.stops - tally.missed} of {tally.stops} stops within a step and {EXIT_SECONDS} s, "
        f"{tally.missed} missed: on a busy machine a stop waits for other programs too"
    )
    if tally.same != tally.cases:
        raise typer.Exit(1)


@dataclass
class Tally:
    """Counts over all settings."""

    cases: int = 0
    same: int = 0  # equal to the uninterrupted run
    stops: int = 0
    missed: int = 0  # stops slower than the aim


def interrupt(
    runs: Trainers, setting: Setting, points: list[StopPoint], tally: Tally, console: Console
) -> None:
    """Interrupt runs of a setting at some points, and compare each with an uninterrupted run."""
    latencies = []
    expected, step_seconds = runs.uninterrupted(setting)
    for point in points:
        found, latency = runs.interrupted(setting, point)
        difference = expected.differs(found)
        tally.cases, tally.same = tally.cases + 1, tally.same + (difference is None)
        verdict = "identical" if difference is None else f"[red]differs: {difference}[/]"
        console.print(f"  {point}: {verdict}, gone after {latency:.2f} s")
        if point.signal is signal.SIGTERM:
            latencies.append(latency)
    missed = sum(latency > step_seconds + EXIT_SECONDS for latency in latencies)
    tally.stops, tally.missed = tally.stops + len(latencies), tally.missed + missed
    console.print(
        f"  stop to exit {median(latencies):.2f} s in the middle, {max(latencies):.2f} s at most; "
        f"the aim is a step of {step_seconds:.2f} s and {EXIT_SECONDS} s, missed by {missed}"
    )


def draw(random: Random, turn: int) -> StopPoint:
    """Draw a moment before the end of a run: a stop in each place in turn, then a kill in any."""
    kind = turn % (len(PLACES) + 1)
    kill = kind == len(PLACES)
    place = random.choice(PLACES) if kill else PLACES[kind]
    times = STEPS // SAVE_STEPS - 1 if place is Place.SAVE else (STEPS - 1) * ACCUMULATION
    number = signal.SIGKILL if kill else signal.SIGTERM
    return StopPoint(place, random.randint(1, times), number)


if __name__ == "__main__":
    typer.run(bench)
