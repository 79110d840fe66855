"""Tables of GPUs, quotes and jobs, and of a job's events, evaluations and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from domain.core.durations import spoken
from domain.core.quantities import gib, written_speed
from domain.jobs.lifecycle import JobStatus, PauseReason
from domain.training.hyperparameters import settings_of
from domain.training.precision import Precision
from domain.use_cases.spending_limits import Outlook
from gateway.catalog.schemas import CatalogResponse
from gateway.cli.tables import STYLES, cell, listing, number, pairs, selected, tame
from gateway.jobs.launch.schemas import (
    CapacityGate,
    CostRangeResponse,
    FitResponse,
    JobEstimateResponse,
)
from gateway.jobs.schemas import (
    CheckpointResponse,
    Evaluation,
    JobDetail,
    JobLog,
    JobSummary,
    ListedJob,
    TimelineEntry,
)
from gateway.schemas import Listed, job_name

RUNNING = frozenset({JobStatus.TRAINING, JobStatus.EVALUATING, JobStatus.TRAINED_PENDING_REGISTER})
PAUSED = {
    PauseReason.BALANCE: "The job was paused when the balance reached zero.",
    PauseReason.CAPACITY: "The region has too few usable GPUs.",
    PauseReason.BUDGET: "A budget is used up. See `ecolink billing budget list`.",
    PauseReason.SUSPENDED: "An operator suspended the account. Resume it after a reinstatement.",
    PauseReason.OVERRUN: "The job took far longer than estimated. Charges ended at the guarantee.",
    PauseReason.MAX_COST: "The job reached its maximum cost. `ecolink jobs max-cost` raises it.",
}
BY_USER = "You paused the job."
LEAST_GIB = 0.1


def jobs(answer: Listed[ListedJob]) -> RenderableType:
    """Render one line per job."""
    return listing(
        (
            {
                "id": job_name(job.id),
                "name": job.name,
                "state": Text(state(job), style=STYLES.get(job.status, "")),
                "cost": job.cost,
                "dataset": job.dataset,
                "base model": job.base_model,
                "approved": f"{job.approved_at:%Y-%m-%d %H:%M}",
                "model": job.model,
            }
            for job in answer.data
        ),
        empty="You have no jobs. `ecolink jobs launch` starts one.",
    )


def gpus(catalog: CatalogResponse) -> RenderableType:
    """Render GPU types by region, with memory, price and expected wait."""
    kinds = {each.gpu_type: each for each in catalog.gpu_types}
    return listing(
        (
            {
                "gpu type": pool.gpu_type,
                "region": pool.region,
                "an hour": kinds[pool.gpu_type].rate_per_hour,
                "memory": number(f"{kinds[pool.gpu_type].vram_gib:g} GiB"),
                "free": number(f"{pool.free:,} of {pool.capacity:,}"),
                "wait": number(_wait(pool.wait_seconds)),
                "title": kinds[pool.gpu_type].title,
            }
            for pool in catalog.pools
            if pool.capacity and pool.gpu_type in kinds
        ),
        empty="No region has GPUs.",
    )


def _wait(seconds: int | None) -> str:
    if seconds is None:
        return "unknown"
    return spoken(seconds) if seconds else "none"


def state(job: JobSummary) -> str:
    """Return the phase of a running job, otherwise its status."""
    return job.phase if job.status in RUNNING else job.status


def job(answer: JobSummary) -> RenderableType:
    """Render a job, which may be newly approved, with one field per line."""
    details = _details(answer) if isinstance(answer, JobDetail) else {"cost": answer.cost.text}
    table = pairs(
        {
            "job": Text(job_name(answer.id), style="bold"),
            "state": Text(_state(answer), style=STYLES.get(answer.status, "cyan")),
            "base model": answer.base_model,
            "continued from": answer.continued_from,
            "dataset": answer.dataset_id,
            "GPUs": f"{answer.gpu_count} x {answer.gpu_type} in {answer.region}, "
            f"{answer.rate_per_hour.text} an hour",
            "approved": answer.approved_at,
            "model": answer.model,
            **details,
        }
    )
    return Group(table, *_warnings(answer.warnings)) if answer.warnings else table


def _warnings(warnings: Sequence[str]) -> list[Text]:
    return [Text(f"warning: {each}", style="yellow") for each in warnings]


def _state(job: JobSummary) -> str:
    name = job.status.replace("_", " ")
    return name if job.phase in (job.status, name) else f"{name}: {job.phase}"


def _details(job: JobDetail) -> dict[str, object]:
    failure = job.failure
    four_bits = job.precision is Precision.NF4
    return {
        "validation dataset": job.validation_dataset_id,
        "settings": "; ".join(map(" ".join, settings_of(job.hyperparameters).items())),
        "precision": job.precision
        + (f", computed in {job.dtype}" if four_bits and job.dtype else "")
        + (", gradient checkpointing" if job.gradient_checkpointing else ""),
        "memory": _peak_memory(job),
        "progress": " · ".join(progress(job)),
        "held-out loss": _change(job.loss_before, job.loss_after, ".4f"),
        "perplexity": _change(job.perplexity_before, job.perplexity_after, ".4g"),
        "accuracy": _change(job.accuracy_before, job.accuracy_after, ".1%"),
        "reward margin": None if job.reward_margin is None else f"{job.reward_margin:z.4f}",
        "best": job.best_note,
        "stopped early": job.stop_note,
        "last checkpoint": None if job.checkpoint_step is None else f"step {job.checkpoint_step:,}",
        "time left": None if job.remaining_seconds is None else spoken(job.remaining_seconds),
        "wait": None if job.wait_seconds is None else spoken(job.wait_seconds),
        "cost": _cost(job),
        "past estimate": job.overrun and Text(job.overrun.sentence, style="yellow"),
        "balance": job.balance,
        "failure": failure and f"{failure.sentence} {failure.advice}",
        "paused": paused(job),
        "kept": job.kept,
    }


def _peak_memory(job: JobDetail) -> str:
    peaks = {"measured": job.peak_memory_bytes, "predicted": job.required_bytes}
    return ", ".join(f"{gib(size):g} GiB {name}" for name, size in peaks.items() if size)


def _change(before: float | None, after: float | None, form: str) -> str | None:
    if before is None or after is None:
        return None
    return f"{before:{form}} for the base model, {after:{form}} for the adapter"


def _cost(job: JobDetail) -> str:
    parts = [f"{job.cost.text} for {spoken(job.billed_seconds)}"]
    if job.credited.micros:
        parts.append(f"{job.credited.text} was credited")
    if job.estimate is not None:
        parts.append(f"estimated {job.estimate.low.text} to {job.estimate.high.text}")
    if job.pay_at_most is not None:
        parts.append(f"at most {job.pay_at_most.text}")
    if job.covered_seconds:
        parts.append(f"{spoken(job.covered_seconds)} covered by the price guarantee")
    return "; ".join(parts)


def paused(job: JobDetail) -> str | None:
    """Return the reason for a pause and the needs of a resume, or None if not paused."""
    if job.status is not JobStatus.PAUSED:
        return None
    reason = PAUSED.get(job.pause_reason, BY_USER) if job.pause_reason else BY_USER
    gate, command = job.resume, f"\n  ecolink jobs resume {job_name(job.id)}"
    if gate and gate.problem:
        return f"{reason} {gate.problem}"
    if gate and gate.needed and gate.missing and gate.missing.micros:
        return (
            f"{reason} A resume needs {gate.needed.text}. Top up {gate.missing.text} first, then:"
            f"{command}"
        )
    costs = (
        f" The rest is estimated to cost up to {gate.needed.text}. {gate.basis}"
        + (f" {gate.price_note}" if gate.price_note else "")
        if gate and gate.needed
        else ""
    )
    return f"{reason}{costs}{command}  continues from the last checkpoint"


def progress(job: JobDetail) -> list[str]:
    """Return the progress of a job's training: the step, losses and speed."""
    parts: list[str] = []
    if job.total_steps is not None:
        parts.append(f"step {job.step:,}/{job.total_steps:,}")
    if job.train_loss is not None:
        parts.append(f"train loss {job.train_loss:.4f}")
    if job.eval_loss is not None:
        parts.append(f"held-out loss {job.eval_loss:.4f} at step {job.eval_step:,}")
    if job.tokens_per_second is not None and job.status in RUNNING:
        parts.append(f"{written_speed(job.tokens_per_second)} tokens/s")
    return parts


def quote(answer: JobEstimateResponse) -> RenderableType:
    """Render a quote: memory, estimate and gates."""
    priced = answer.estimate
    return Group(
        Text("Memory", style="bold"),
        Text(answer.fit.banner),
        _memory(answer.fit),
        Text("\nEstimate", style="bold"),
        _phases(priced),
        Text(
            f"{priced.total_steps:,} steps, {priced.tokens:,} tokens, on {answer.gpu_type} in "
            f"{answer.region} at {priced.rate_per_hour.text} an hour. {priced.basis}",
            style="dim",
        ),
        *([Text(answer.price_note)] if answer.price_note else []),
        Text("\nGates", style="bold"),
        *_gates(answer),
        *_warnings(answer.warnings),
    )


def _memory(fit: FitResponse) -> RenderableType:
    sizes = {name.replace("_", " "): size for name, size in fit.items_gib.items()}
    sizes |= {"total": sum(fit.items_gib.values())}
    sizes |= {"GPU memory": fit.vram_gib, "headroom": fit.headroom_gib}
    return listing({"memory": name, "size": _memory_size(size)} for name, size in sizes.items())


def _memory_size(size: float) -> Text:
    return number(f"{size:.2f} GiB" if abs(size) >= LEAST_GIB else f"{size * 1024:.1f} MiB")


def _phases(priced: CostRangeResponse) -> RenderableType:
    ranges = {each.phase: (each.low_seconds, each.high_seconds) for each in priced.phases}
    ranges |= {"total": (priced.low_seconds, priced.high_seconds)}
    rows = [
        {
            "phase": phase.replace("_", " "),
            "at least": number(spoken(low)),
            "at most": number(spoken(high)),
        }
        for phase, (low, high) in ranges.items()
    ]
    return listing([*rows, {"phase": "cost", "at least": priced.low, "at most": priced.high}])


def _gates(answer: JobEstimateResponse) -> list[Text]:
    balance, capacity = answer.balance, answer.capacity
    bound = "maximum" if balance.capped else "upper bound"
    left = f"{balance.balance.text} now, {balance.left.text} if the job costs its {bound}"
    if balance.missing.micros:
        left += f". Top up {balance.missing.text} first"
    return [
        _gate("balance", not balance.missing.micros, left),
        *(
            _gate("budget", False, each.text)
            for each in answer.budgets
            if each.outlook is Outlook.USED_UP
        ),
        _gate("capacity", capacity.is_open, _capacity(capacity)),
        Text("Ready to approve.", style="green")
        if answer.approvable
        else Text("The job cannot be approved, because a gate is closed.", style="red"),
    ]


def _gate(name: str, is_open: bool, why: str) -> Text:
    mark = ("open  ", "green") if is_open else ("closed", "red")
    return Text.assemble(mark, f" {name}: {why}")


def _capacity(capacity: CapacityGate) -> str:
    free = f"{capacity.free:,} free"
    if capacity.free >= capacity.needed:
        return free
    wait = "unknown" if capacity.wait_seconds is None else f"about {spoken(capacity.wait_seconds)}"
    queue = "The job waits" if capacity.is_open else "With `--wait`, the job waits"
    places = ", ".join(
        f"{place.free:,} {place.gpu_type} in {place.region}" for place in capacity.elsewhere
    )
    return (
        f"{free}, but the job needs {capacity.needed:,}. The wait is {wait}. {queue} in the "
        "queue, free of charge." + (f" Free now: {places}." if places else "")
    )


def log(answer: JobLog) -> RenderableType:
    """Render the lines of a log."""
    return Group(*(Text(tame(line.text)) for line in answer.data))


def event(entry: TimelineEntry) -> Text:
    """Render an event on one line."""
    when = (cell(entry.happened_at).plain, "dim")
    return Text.assemble(when, " ", (entry.topic, "bold"), " ", tame(entry.text))


def events(answer: Listed[TimelineEntry]) -> RenderableType:
    """Render one line per event of a job."""
    return Group(*map(event, answer.data))


def evaluations(answer: Listed[Evaluation]) -> RenderableType:
    """Render one line per evaluation."""
    rows = (
        {
            "step": each.step,
            "eval loss": _loss(each.eval_loss),
            "perplexity": None if each.perplexity is None else number(f"{each.perplexity:.4g}"),
            "accuracy": number(f"{each.accuracy:.1%}"),
        }
        | _rewards(each)
        | selected(each, "examples", "measured_at")
        for each in answer.data
    )
    return listing(rows, empty="The job has no evaluations yet.")


def _rewards(each: Evaluation) -> dict[str, Text]:
    if each.chosen_reward is None or each.rejected_reward is None:
        return {}
    rewards = {
        "preferred reward": each.chosen_reward,
        "rejected reward": each.rejected_reward,
        "margin": each.chosen_reward - each.rejected_reward,
    }
    return {name: number(f"{reward:z.4f}") for name, reward in rewards.items()}


def checkpoints(answer: Listed[CheckpointResponse]) -> RenderableType:
    """Render one line per checkpoint, with its sample response to the fixed prompt."""
    rows = (
        selected(each, "step", "segment")
        | {
            "train loss": _loss(each.train_loss),
            "eval loss": _loss(each.eval_loss),
            "best": "yes" if each.best else None,
        }
        | selected(each, "total_bytes", "deployment")
        | {"answer": each.sample and each.sample.answer}
        for each in answer.data
    )
    return listing(rows, empty="The job has no checkpoints.")


def _loss(loss: float | None) -> Text | None:
    return None if loss is None else number(f"{loss:.4f}")
