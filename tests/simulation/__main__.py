"""`make simulate`: lifetimes of jobs in simulated installations, or one story by its seed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated

import typer

from tests.simulation.control_plane.broken_rules import BROKEN_RULES
from tests.simulation.control_plane.operations import FAULTS, generated
from tests.simulation.control_plane.shrinking import shrunk
from tests.simulation.control_plane.story import LENGTH, Broken, played

TOLD_EVENTS = 40
POLL_SECONDS = 1.0
STORIES_AT_ONCE = 4
"""Stories per process that wait for it."""


@dataclass
class Figures:
    """The sums over the stories of a run."""

    stories: int = 0
    lifetimes: int = 0
    events: int = 0
    seconds: float = 0.0
    happened: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[int, str]] = field(default_factory=list)
    """Seeds with their first violation."""

    def add(self, other: Figures) -> None:
        self.stories += other.stories
        self.lifetimes += other.lifetimes
        self.events += other.events
        self.seconds += other.seconds
        self.happened += other.happened
        self.violations += other.violations


def story(seed: int) -> Figures:
    """Play the story of a seed."""
    outcome = played(generated(seed, LENGTH))
    violations = [(seed, each) for each in outcome.violations[:1]]
    return Figures(
        stories=1,
        lifetimes=outcome.lifetimes,
        events=len(outcome.events),
        seconds=outcome.seconds,
        happened=outcome.happened,
        violations=violations,
    )


def stories(lifetimes: int, first_seed: int, processes: int) -> Figures:
    """Play stories in parallel until this many jobs have ended, or until SIGTERM."""
    figures = Figures()
    seeds = count(first_seed)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    # Workers that are forked inherit the handler, but end with the pool.
    with ProcessPoolExecutor(processes) as pool:
        open_stories: set[Future[Figures]] = set()
        while figures.lifetimes < lifetimes and not stopped:
            while len(open_stories) < processes * STORIES_AT_ONCE:
                open_stories.add(pool.submit(story, next(seeds)))
            done, open_stories = wait(open_stories, POLL_SECONDS, return_when=FIRST_COMPLETED)
            for each in done:
                found = each.result()
                figures.add(found)
                for seed, violation in found.violations:  # a run may take hours
                    typer.echo(f"VIOLATION, seed {seed}: {violation}", err=True)
        for each in open_stories:
            if not each.cancel():
                figures.add(each.result())
    return figures


def lines_of(figures: Figures, seconds: float) -> Iterator[str]:
    """Yield the figures of a run, one a line."""
    happened = figures.happened
    rows: dict[str, int] = {
        "lifetimes": figures.lifetimes,
        "stories": figures.stories,
        "events": figures.events,
        "simulated hours": round(figures.seconds / 3600),
        "faults": sum(happened[name] for name in FAULTS),
        **{f"  {name}": happened[name] for name in sorted(FAULTS)},
        **{f"  {name}": happened[name] for name in sorted(happened.keys() - FAULTS)},
        "seconds": round(seconds),
        "lifetimes per second": round(figures.lifetimes / seconds),
        "violations": len(figures.violations),
    }
    for name, figure in rows.items():
        yield f"{figure:>14,}  {name}"
    for seed, violation in figures.violations:
        yield f"VIOLATION, seed {seed}: {violation}"


def replay(seed: int, length: int, broken: Broken) -> bool:
    """Play one story. Return False, and print its shortest form, if it breaks a rule."""
    operations = generated(seed, length)
    outcome = played(operations, broken)
    if not outcome.violations:
        typer.echo(
            f"Seed {seed}: {outcome.lifetimes} jobs ended after {len(outcome.events)} events in "
            f"{outcome.seconds:.0f} simulated seconds. Every rule holds."
        )
        return True
    typer.echo(f"Seed {seed} breaks a rule after {outcome.ran} operations. Shrinking ...")
    short = shrunk(operations[: outcome.ran], lambda story: bool(played(story, broken).violations))
    found = played(short, broken)
    typer.echo("Two accounts with money; the operator offers eight GPUs.")
    for number, each in enumerate(short, 1):
        typer.echo(f"{number:>3}. {each}")
    for violation in found.violations:
        typer.echo(f"BROKEN: {violation}")
    told = found.events[-TOLD_EVENTS:]
    typer.echo(f"The last {len(told)} of {len(found.events)} events:")
    for line in told:
        typer.echo(line)
    return False


def main(
    lifetimes: Annotated[int, typer.Option(help="Jobs to simulate; 0: one story.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the story, or of the first one.")] = 1,
    length: Annotated[int, typer.Option(help="Operations of one story.")] = LENGTH,
    broken: Annotated[str, typer.Option(help=f"Break a rule: {', '.join(BROKEN_RULES)}.")] = "",
    processes: Annotated[int, typer.Option(help="Processes; 0: one for each core.")] = 0,
) -> None:
    """Simulate installations. Exits with 1 if a rule is broken."""
    if lifetimes == 0:
        holds = replay(seed, length, BROKEN_RULES[broken] if broken else nullcontext)
        raise typer.Exit(0 if holds else 1)
    began = time.monotonic()
    figures = stories(lifetimes, seed, processes or len(os.sched_getaffinity(0)))
    for line in lines_of(figures, time.monotonic() - began):
        typer.echo(line)
    raise typer.Exit(1 if figures.violations else 0)


if __name__ == "__main__":
    typer.run(main)
