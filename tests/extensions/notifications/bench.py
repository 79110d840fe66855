"""A benchmark of webhooks: kill a receiver and the service again and again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.local.stack import up
from infrastructure.postgres.store import open_log
from infrastructure.settings import Settings
from tests.bench.aims import Verdict, conclude
from tests.extensions.notifications.kills import Outcome, Trial, run_trial


def bench(
    jobs: Annotated[int, typer.Option(min=1)] = 100,
    messages: Annotated[int, typer.Option(min=1, help="Events of each job.")] = 10,
    kills: Annotated[int, typer.Option(min=0, help="Kills of the receiver.")] = 20,
    service_kills: Annotated[int, typer.Option(min=0, help="Kills of the service.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the times of the kills.")] = 1,
) -> None:
    """Deliver events with and without kills, and count lost, reordered and invalid ones."""
    console = Console(highlight=False)
    calm = measured(Trial(jobs, messages, 0, 0, seed))
    rate = calm.messages / calm.seconds
    console.print(f"without kills: {rate:.0f} deliveries/s to one receiver, {shown(calm)}")
    killed = measured(Trial(jobs, messages, kills, service_kills, seed))
    console.print(f"{kills} kills of the receiver, {service_kills} of the service: {shown(killed)}")
    conclude(
        console,
        [
            Verdict(
                f"{name}: {each.distinct} of {each.messages} delivered, {each.out_of_order} out of "
                f"order, {each.invalid} invalid",
                "all, 0, 0",
                each.holds,
            )
            for name, each in (("without kills", calm), ("with kills", killed))
        ],
    )


def measured(trial: Trial) -> Outcome:
    """Run a trial with servers of its own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user
        home = Path(folder) / "home"
        with up(Settings(home=home), {}) as stack, open_log(stack.settings) as log:
            return run_trial(stack.settings, log, Path(folder), trial)


def shown(outcome: Outcome) -> str:
    """Return the numbers of an outcome as text."""
    again = outcome.requests - outcome.distinct
    return (
        f"{outcome.messages} events in {outcome.seconds:.1f} s, {outcome.requests} requests, "
        f"{again} of them repeated"
    )


if __name__ == "__main__":
    typer.run(bench)
