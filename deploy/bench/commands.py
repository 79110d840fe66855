"""`ecolink bench`: what the platform promises, measured."""

from __future__ import annotations

import typer

from deploy.bench import (
    estimates,
    live,
    memory,
    meter_truth,
    precision,
    resume,
    saving,
    serve,
    start,
    trainer,
    trl_equal,
    wait_eta,
    wizard,
)

commands = typer.Typer(name="bench", no_args_is_help=True, help="Measure what is promised.")
commands.command("estimates")(estimates.bench)
commands.command("wait-eta")(wait_eta.bench)
commands.command("meter-truth")(meter_truth.bench)
commands.command("start")(start.bench)
commands.command("resume")(resume.bench)
commands.command("saving")(saving.bench)
commands.command("precision")(precision.bench)
commands.command("trl-equal")(trl_equal.bench)
commands.command("trainer")(trainer.bench)
commands.command("serve")(serve.bench)
commands.command("wizard")(wizard.bench)
commands.command("live")(live.bench)
commands.command("memory")(memory.bench)


@commands.callback()
def root() -> None:
    """Measure what is promised."""
