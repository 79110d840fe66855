"""How the command line draws a job that is under way: as a line, or as a panel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from domain.core.durations import spoken
from gateway.cli.job_tables import RUNNING, paused, state
from gateway.cli.tables import STYLES, Answer

BAR_CELLS = 32
BARS = "▁▂▃▄▅▆▇█"


def line(job: Answer) -> str:
    """One line on how far a job is."""
    parts = [job["status"]]
    if job["phase"] != job["status"]:
        parts.append(job["phase"])
    if job["total_steps"] is not None:
        parts.append(f"step {job['step']}/{job['total_steps']}")
    parts.extend(_measures(job))
    parts.extend(_money(job))
    parts.extend(job[name] for name in ("model", "error_class") if job[name])
    return " · ".join(parts)


def panel(job: Answer, losses: Sequence[float]) -> RenderableType:
    """What a terminal shows of a job, with the losses of its steps so far, in order."""
    head = Text.assemble((job["id"], "bold"), (f"  {job['base_model']}", "dim"))
    lines: list[RenderableType] = [head, _bar(job)]
    if measures := _measures(job):
        lines.append(Text(" · ".join(measures)))
    if len(losses) > 1:
        lines.append(Text.assemble(("train loss ", "dim"), (sparkline(losses, BAR_CELLS), "cyan")))
    lines.append(Text(" · ".join(_money(job)), style="dim"))
    if job["overrun"]:
        lines.append(Text(job["overrun"]["sentence"], style="yellow"))
    return Group(*lines)


def _bar(job: Answer) -> RenderableType:
    """The state, and the steps as a bar."""
    known = job["total_steps"] is not None
    row = Table.grid(padding=(0, 2, 0, 0))
    name = Text(state(job).replace("_", " "), style=STYLES.get(job["status"], "cyan"))
    cells: list[RenderableType] = [name]
    if known:
        done = ProgressBar(job["total_steps"], job["step"], width=BAR_CELLS)
        cells += [done, Text(f"step {job['step']} of {job['total_steps']}")]
    if job["waiting_since"] is not None:
        wait = job["wait_seconds"]
        expected = f"about {spoken(wait)} more, " if wait else ""
        cells.append(Text(f"{expected}free of charge"))
    row.add_row(*cells)
    return row


def _measures(job: Answer) -> list[str]:
    parts = []
    if job["train_loss"] is not None:
        parts.append(f"train loss {job['train_loss']:.4f}")
    if job["eval_loss"] is not None:
        parts.append(f"held-out loss {job['eval_loss']:.4f} at step {job['eval_step']}")
    if job["status"] in RUNNING:
        if job["tokens_per_second"] is not None:
            parts.append(f"{job['tokens_per_second']:,.0f} tokens/s")
        if job["remaining_seconds"] is not None:
            parts.append(f"about {spoken(job['remaining_seconds'])} left")
    return parts


def _money(job: Answer) -> list[str]:
    return [
        f"cost {job['cost']['text']}",
        f"balance {job['balance']['text']}",
        f"{job['rate_per_hour']['text']} an hour",
    ]


def outcome(job: Answer) -> Text:
    """How a job ended, and the command that suits it next, on a line of its own."""
    name = job["id"]
    match job["status"]:
        case "registered":
            told = f"Registered as {job['model']}; it cost {job['cost']['text']}."
            if job["loss_before"] is not None and job["loss_after"] is not None:
                told += f"\nHeld-out loss: {job['loss_before']:.4f}, now {job['loss_after']:.4f}."
            told += f"\n  ecolink jobs download {name}  fetches it"
            told += f"\n  ecolink jobs deploy {name}  has it answer"
        case "failed":
            failure = job["failure"]
            why = f"{failure['sentence']} {failure['advice']}" if failure else job["error_class"]
            told = f"Failed: {why}\n  ecolink jobs logs {name}  shows its last lines"
        case "cancelled":
            told = f"Cancelled. {job['kept'] or ''}".rstrip()
        case _:
            told = f"Paused. {paused(job) or ''}".rstrip()
    return Text(told, style=STYLES.get(job["status"], ""))


def sparkline(values: Sequence[float], cells: int) -> str:
    """Values as a row of bars, the lowest value the lowest bar; each is a mean of neighbours."""
    count = min(cells, len(values))
    edges = [round(n * len(values) / count) for n in range(count + 1)]
    means = [sum(values[first:last]) / (last - first) for first, last in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)
