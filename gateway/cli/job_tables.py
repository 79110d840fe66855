"""How the command line draws what the API says of jobs."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from domain.core.durations import spoken
from domain.estimating.memory import gib
from domain.training.hyperparameters import settings_of
from gateway.cli.tables import STYLES, Answer, cell, listing, pairs, tame

RUNNING = frozenset({"training", "evaluating", "trained_pending_register"})


def jobs(answer: Answer) -> RenderableType:
    """Jobs, one a line."""
    return listing(
        [
            each | {"state": state(each), "approved": _minute(each["approved_at"])}
            for each in answer["data"]
        ],
        *("id", "name", "state", "cost", "dataset", "base_model", "approved", "model"),
        empty="You have no jobs; `ecolink jobs launch` starts one.",
    )


def gpus(catalog: Answer) -> RenderableType:
    """GPU types by region, one a line: memory, price, and how long one is waited for."""
    kinds = {each["gpu_type"]: each for each in catalog["gpu_types"]}
    rows: list[Answer] = [
        {
            "gpu type": pool["gpu_type"],
            "region": pool["region"],
            "an hour": kinds[pool["gpu_type"]]["rate_per_hour"],
            "memory": f"{kinds[pool['gpu_type']]['vram_gib']:g} GiB",
            "free": f"{pool['free']} of {pool['capacity']}",
            "wait": _wait(pool["wait_seconds"]),
            "title": kinds[pool["gpu_type"]]["title"],
        }
        for pool in catalog["pools"]
        if pool["capacity"] and pool["gpu_type"] in kinds
    ]
    columns = ("gpu type", "region", "an hour", "memory", "free", "wait", "title")
    right = ("memory", "free", "wait")
    return listing(rows, *columns, empty="No region has a GPU now.", right=right)


def _wait(seconds: int | None) -> str:
    if seconds is None:
        return "unknown"
    return spoken(seconds) if seconds else "none"


def _minute(time: str) -> str:
    return cell("_at", time).plain.rpartition(":")[0]


def state(job: Answer) -> str:
    """What a job does: the phase while it runs, which says more, else the status."""
    return job["phase"] if job["status"] in RUNNING else job["status"]


def job(answer: Answer) -> RenderableType:
    """All that matters of a job, one thing a line; of a job just approved, what is known."""
    shown: dict[str, Text | str | None] = {
        "job": Text(answer["id"], style="bold"),
        "state": Text(_state(answer), style=STYLES.get(answer["status"], "cyan")),
        "base model": answer["base_model"],
        "dataset": answer["dataset_id"],
        "GPUs": f"{answer['gpu_count']} x {answer['gpu_type']} in {answer['region']}, "
        f"{answer['rate_per_hour']['text']} an hour",
        "approved": cell("approved_at", answer["approved_at"]),
        "model": answer["model"],
    }
    if "hyperparameters" in answer:
        shown |= _details(answer)
    else:
        shown["cost"] = answer["cost"]["text"]
    table = pairs({name: value for name, value in shown.items() if value})
    return Group(table, *_notes(answer)) if answer["warnings"] else table


def _notes(answer: Answer) -> list[Text]:
    return [Text(f"note: {warning}", style="yellow") for warning in answer["warnings"]]


def _state(job: Answer) -> str:
    name = job["status"].replace("_", " ")
    return name if job["phase"] in (job["status"], name) else f"{name}: {job['phase']}"


def _details(job: Answer) -> dict[str, Text | str | None]:
    failure = job["failure"]
    return {
        "validation dataset": job["validation_dataset_id"],
        "settings": "; ".join(map(" ".join, settings_of(job["hyperparameters"]).items())),
        "precision": job["precision"]
        + (f", computed in {job['dtype']}" if job["precision"] == "nf4" and job["dtype"] else "")
        + (", gradient checkpointing" if job["gradient_checkpointing"] else ""),
        "memory": _peak_memory(job),
        "progress": progress_of(job),
        "held-out loss": _change(job["loss_before"], job["loss_after"], ".4f"),
        "perplexity": _change(job["perplexity_before"], job["perplexity_after"], ".4g"),
        "accuracy": _change(job["accuracy_before"], job["accuracy_after"], ".1%"),
        "best": job["best_note"],
        "last checkpoint": None if job["checkpoint_step"] is None else f"{job['checkpoint_step']}",
        "time left": None if job["remaining_seconds"] is None else spoken(job["remaining_seconds"]),
        "wait": None if job["wait_seconds"] is None else spoken(job["wait_seconds"]),
        "cost": _cost(job),
        "past estimate": job["overrun"] and Text(job["overrun"]["sentence"], style="yellow"),
        "balance": job["balance"]["text"],
        "failure": failure and f"{failure['sentence']} {failure['advice']}",
        "paused": paused(job),
        "kept": job["kept"],
    }


def _peak_memory(job: Answer) -> str | None:
    """The predicted peak, and the measured one once there is one."""
    parts = [
        f"{gib(job[name]):g} GiB {said}"
        for name, said in (("peak_memory_bytes", "measured"), ("required_bytes", "predicted"))
        if job[name]
    ]
    return ", ".join(parts) or None


def _change(before: float | None, after: float | None, form: str) -> str | None:
    """The base's figure and the adapter's."""
    if before is None or after is None:
        return None
    return f"{before:{form}} of the base, {after:{form}} of the adapter"


def _cost(job: Answer) -> str:
    parts = [f"{job['cost']['text']} for {spoken(job['billed_seconds'])}"]
    if job["credited"]["micros"]:
        parts.append(f"{job['credited']['text']} of it were credited")
    if job["estimate"] is not None:
        low, high = job["estimate"]["low"]["text"], job["estimate"]["high"]["text"]
        parts.append(f"estimated {low} to {high}")
    return "; ".join(parts)


def paused(job: Answer) -> str | None:
    """Why a job is paused and what its resume needs; None of one that is not."""
    if job["status"] != "paused":
        return None
    reason = {
        "balance": "It was paused when the balance reached zero.",
        "capacity": "The region no longer has that many GPUs.",
    }.get(job["pause_reason"], "You paused it.")
    gate = job["resume"] or {}
    if gate.get("problem"):
        return f"{reason} {gate['problem']}"
    if gate.get("missing") and gate["missing"]["micros"]:
        return (
            f"{reason} A resume needs {gate['needed']['text']}: top up {gate['missing']['text']}.\n"
            f"  ecolink jobs resume {job['id']}  goes on then"
        )
    return f"{reason}\n  ecolink jobs resume {job['id']}  goes on from there"


def progress_of(job: Answer) -> str:
    """How far the training of a job is."""
    parts = []
    if job["total_steps"] is not None:
        parts.append(f"step {job['step']}/{job['total_steps']}")
    if job["train_loss"] is not None:
        parts.append(f"train loss {job['train_loss']:.4f}")
    if job["eval_loss"] is not None:
        parts.append(f"held-out loss {job['eval_loss']:.4f} at step {job['eval_step']}")
    if job["tokens_per_second"] is not None and job["status"] in RUNNING:
        parts.append(f"{job['tokens_per_second']:,.0f} tokens/s")
    return " · ".join(parts)


def quote(answer: Answer) -> RenderableType:
    """Fit, phases, cost range and gates of a job that was not approved."""
    priced = answer["estimate"]
    return Group(
        Text("Fit", style="bold"),
        Text(answer["fit"]["banner"]),
        _memory(answer["fit"]),
        Text("\nEstimate", style="bold"),
        _phases(priced),
        Text(
            f"{priced['total_steps']:,} steps, {priced['tokens']:,} tokens, on "
            f"{answer['gpu_type']} in {answer['region']} at "
            f"{priced['rate_per_hour']['text']} an hour. {priced['basis']}",
            style="dim",
        ),
        Text("\nGates", style="bold"),
        *_gates(answer),
        *_notes(answer),
    )


def _memory(fit: Answer) -> RenderableType:
    """What takes the memory of each GPU, and what is left of it."""
    taken = sum(fit["items_gib"].values())
    rows: list[Answer] = [
        {"memory": name.replace("_", " "), "size": _memory_size(size)}
        for name, size in fit["items_gib"].items()
    ]
    rows.append({"memory": "together", "size": _memory_size(taken)})
    rows.append({"memory": "of each GPU", "size": _memory_size(fit["vram_gib"])})
    rows.append({"memory": "headroom", "size": _memory_size(fit["headroom_gib"])})
    return listing(rows, "memory", "size", right=("size",))


def _memory_size(gib: float) -> str:
    return f"{gib:.2f} GiB" if abs(gib) >= 0.1 else f"{gib * 1024:.1f} MiB"


def _phases(priced: Answer) -> RenderableType:
    rows: list[Any] = [
        {
            "phase": each["phase"].replace("_", " "),
            "at least": spoken(each["low_seconds"]),
            "at most": spoken(each["high_seconds"]),
        }
        for each in priced["phases"]
    ]
    rows.append(
        {
            "phase": "together",
            "at least": spoken(priced["low_seconds"]),
            "at most": spoken(priced["high_seconds"]),
        }
    )
    rows.append(
        {"phase": "cost", "at least": priced["low"]["text"], "at most": priced["high"]["text"]}
    )
    return listing(rows, "phase", "at least", "at most", right=("at least", "at most"))


def _gates(answer: Answer) -> list[Text]:
    balance, capacity = answer["balance"], answer["capacity"]
    left = f"{balance['balance']['text']} now, {balance['left']['text']} if it costs the most"
    if missing := balance["missing"]["micros"]:
        left += f"; top up {balance['missing']['text']} first"
    return [
        _gate("balance", not missing, left),
        _gate("capacity", capacity["is_open"], _capacity(capacity)),
        Text("ready to approve", style="green")
        if answer["approvable"]
        else Text("not to be approved now", style="red"),
    ]


def _gate(name: str, is_open: bool, why: str) -> Text:
    mark = ("open  ", "green") if is_open else ("closed", "red")
    return Text.assemble(mark, f" {name}: {why}")


def _capacity(capacity: Answer) -> str:
    free, needed, wait = capacity["free"], capacity["needed"], capacity["wait_seconds"]
    if free >= needed:
        return f"{free} free"
    expected = "the wait is unknown" if wait is None else f"the wait is about {spoken(wait)}"
    places = ", ".join(
        f"{place['free']} of {place['gpu_type']} in {place['region']}"
        for place in capacity["elsewhere"]
    )
    elsewhere = f"; free now: {places}" if places else ""
    queue = (
        f"{'the job' if capacity['is_open'] else '`--wait`'} stands in the queue, free of charge"
    )
    return f"{free} free, the job needs {needed}; {expected}, {queue}{elsewhere}"


def log(answer: Answer) -> RenderableType:
    """A trainer's lines as they are."""
    return Group(*(Text(tame(line["text"])) for line in answer["data"]))


def event(entry: Answer) -> Text:
    """One event of a job, on one line."""
    return Text.assemble(
        (cell("happened_at", entry["happened_at"]).plain, "dim"),
        " ",
        (entry["topic"], "bold"),
        " ",
        tame(entry["text"]),
    )


def events(answer: Answer) -> RenderableType:
    """Events of a job, one a line."""
    return Group(*map(event, answer["data"]))


def evaluations(answer: Answer) -> RenderableType:
    """Evaluations, one a line."""
    rows = [
        each
        | {"eval_loss": f"{each['eval_loss']:.4f}", "perplexity": f"{each['perplexity']:.4g}"}
        | {"accuracy": f"{each['accuracy']:.1%}"}
        for each in answer["data"]
    ]
    return listing(
        rows,
        *("step", "eval_loss", "perplexity", "accuracy", "examples", "measured_at"),
        empty="The job was not evaluated yet.",
        right=("eval_loss", "perplexity", "accuracy"),
    )


def checkpoints(answer: Answer) -> RenderableType:
    """Checkpoints, one a line, with the answer to the fixed prompt."""
    rows = [
        each
        | {name: _loss(each[name]) for name in ("train_loss", "eval_loss")}
        | {"best": "yes" if each["best"] else None}
        | {"answer": each["sample"]["answer"] if each["sample"] else None}
        for each in answer["data"]
    ]
    return listing(
        rows,
        *("step", "segment", "train_loss", "eval_loss", "best", "total_bytes", "deployment"),
        "answer",
        empty="Nothing is saved.",
        right=("train_loss", "eval_loss"),
    )


def _loss(loss: float | None) -> str | None:
    return None if loss is None else f"{loss:.4f}"
