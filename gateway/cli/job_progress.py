"""Progress of a job as a line of text or a terminal panel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from domain.core.durations import spoken
from domain.jobs.lifecycle import JobStatus
from gateway.cli.job_tables import RUNNING, paused, progress, state
from gateway.cli.tables import STYLES
from gateway.jobs.schemas import JobDetail
from gateway.schemas import job_name

BAR_CELLS = 32
BARS = "▁▂▃▄▅▆▇█"


def line(job: JobDetail) -> str:
    """Return the state, progress and cost of a job as one line."""
    parts: list[str] = [job.status]
    if job.phase != job.status:
        parts.append(job.phase)
    parts += [*progress(job), *_left(job), *_money(job)]
    parts.extend(each for each in (job.model, job.error_class) if each)
    return " · ".join(parts)


def panel(job: JobDetail, losses: Sequence[float]) -> RenderableType:
    """Render a job as a terminal panel. `losses` are the train losses of its steps, in order."""
    head = Text.assemble((job_name(job.id), "bold"), (f"  {job.base_model}", "dim"))
    lines: list[RenderableType] = [head, _bar(job)]
    if measures := [*progress(job), *_left(job)]:
        lines.append(Text(" · ".join(measures)))
    if len(losses) > 1:
        lines.append(Text.assemble(("train loss ", "dim"), (sparkline(losses, BAR_CELLS), "cyan")))
    lines.append(Text(" · ".join(_money(job)), style="dim"))
    if job.overrun:
        lines.append(Text(job.overrun.sentence, style="yellow"))
    return Group(*lines)


def _bar(job: JobDetail) -> RenderableType:
    row = Table.grid(padding=(0, 2, 0, 0))
    name = Text(state(job).replace("_", " "), style=STYLES.get(job.status, "cyan"))
    cells: list[RenderableType] = [name]
    if job.total_steps is not None:
        cells.append(ProgressBar(job.total_steps, job.step, width=BAR_CELLS))
    if job.waiting_since is not None:
        wait = job.wait_seconds
        expected = f"about {spoken(wait)} more, " if wait else ""
        cells.append(Text(f"{expected}free of charge"))
    row.add_row(*cells)
    return row


def _left(job: JobDetail) -> list[str]:
    if job.status not in RUNNING or job.remaining_seconds is None:
        return []
    return [f"about {spoken(job.remaining_seconds)} left"]


def _money(job: JobDetail) -> list[str]:
    return [
        f"cost {job.cost.text}",
        f"balance {job.balance.text}",
        f"{job.rate_per_hour.text} an hour",
    ]


def outcome(job: JobDetail) -> Text:
    """Return the outcome of a job, and commands to use next."""
    name = job_name(job.id)
    match job.status:
        case JobStatus.REGISTERED:
            ended = f"Registered as {job.model}. The job cost {job.cost.text}."
            if job.loss_before is not None and job.loss_after is not None:
                ended += (
                    f"\nHeld-out loss: {job.loss_before:.4f} before, {job.loss_after:.4f} after."
                )
            ended += f"\n  ecolink jobs download {name}  downloads the model"
            ended += f"\n  ecolink jobs deploy {name}  deploys the model"
        case JobStatus.FAILED:
            failure = job.failure
            why = f"{failure.sentence} {failure.advice}" if failure else job.error_class
            ended = f"Failed: {why}\n  ecolink jobs logs {name}  shows the last log lines"
        case JobStatus.CANCELLED:
            ended = f"Cancelled. {job.kept or ''}".rstrip()
        case _:
            ended = f"Paused. {paused(job) or ''}".rstrip()
    return Text(ended, style=STYLES.get(job.status, ""))


def sparkline(values: Sequence[float], cells: int) -> str:
    """Return values as a sparkline scaled to their range. Each bar is the mean of its values."""
    count = min(cells, len(values))
    edges = [round(n * len(values) / count) for n in range(count + 1)]
    means = [sum(values[first:last]) / (last - first) for first, last in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)
