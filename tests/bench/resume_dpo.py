"""`make bench-resume-dpo`: `bench-resume` for jobs with direct preference optimization (DPO)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from rich.console import Console

from domain.training.hyperparameters import DPO, Hyperparameters
from domain.training.precision import Precision
from infrastructure.training.reports import SegmentSpec
from tests.bench.resume import Tally, draw, interrupt
from tests.bench.trainer_runs import ROWS, TINY, Setting, Trainers
from tests.builders.tiny_model import preference_pairs
from tests.services.trainer.program import NatsServer


class DpoTrainers(Trainers):
    """Trainers of jobs on preference pairs."""

    def _spec(self, setting: Setting) -> SegmentSpec:
        spec = super()._spec(setting)
        chosen = spec.hyperparameters.model_dump() | {"method": DPO, "beta": 0.1}
        ref, sha256 = self._store.put_rows(preference_pairs(ROWS))
        changes = {
            "hyperparameters": Hyperparameters(**chosen),
            "dataset_ref": ref,
            "dataset_sha256": sha256,
        }
        return spec.model_copy(update=changes)


def bench(
    points: Annotated[int, typer.Option(min=1, help="Stop points of each number of ranks.")] = 20,
    ranks: Annotated[int, typer.Option(min=1, help="Up to how many ranks.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the stop points.")] = 1,
) -> None:
    """Compare every loss and the adapter of interrupted runs with an uninterrupted run."""
    console = Console(highlight=False)
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="ecolink-trainers-") as folder:
        server = NatsServer(Path(folder))
        server.start()
        server.provision()
        try:
            runs = DpoTrainers(Path(folder), server)
            runs.offer(TINY)
            for count in range(1, ranks + 1):
                setting = Setting(TINY, Precision.BF16, count)
                console.print(f"[bold]{setting}, DPO[/]")
                random = Random(f"{seed}:{setting}")
                stops = [draw(random, turn) for turn in range(points)]
                interrupt(runs, setting, stops, tally, console)
        finally:
            server.stop()
    console.print(f"[bold]{tally.same} of {tally.cases} identical[/]")
    if tally.same != tally.cases:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(bench)
