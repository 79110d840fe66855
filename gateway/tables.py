"""How the command line draws the API's answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from domain.durations import spoken

Answer = dict[str, Any]

COPIED = frozenset({"id", "job_id", "model", "name"})
"""Columns that people copy from, kept on one line."""

TIME_CHARACTERS = 19  # to the second; the offset of UTC stays away


def fields(answer: Answer) -> RenderableType:
    """Every field that has a value, one a line."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in answer.items():
        if value is not None and value != []:
            table.add_row(name.replace("_", " "), _text(name, value))
    return table


def datasets(answer: Answer) -> RenderableType:
    """Datasets, one a line."""
    return _table(
        answer["data"],
        *("id", "name", "status", "examples", "duplicates", "errors", "uploaded_at"),
        empty="You have no datasets; `ecolink datasets upload FILE` makes one.",
    )


def report(answer: Answer) -> RenderableType:
    """A validation's outcome, its warnings and its errors."""
    counts = f"examples {answer['examples']}, duplicates {answer['duplicates']}"
    lines = [Text(f"{answer['status']}: {counts}, errors {answer['error_count']}")]
    for notice in answer["warnings"]:
        lines.append(Text(f"warning: {notice['message']}", style="yellow"))
    for problem in answer["errors"]:
        where = "file" if problem["line"] is None else f"line {problem['line']}"
        lines.append(Text(f"{where}: {problem['message']}", style="red"))
    return Group(*lines)


def jobs(answer: Answer) -> RenderableType:
    """Jobs, one a line."""
    return _table(
        answer["data"],
        *("id", "status", "phase", "cost", "approved_at", "model"),
        empty="You have no jobs; `ecolink jobs launch` starts one.",
    )


def progress(job: Answer) -> str:
    """One line on how far a job is."""
    parts = [job["status"]]
    if job["phase"] != job["status"]:
        parts.append(job["phase"])
    if job["total_steps"] is not None:
        parts.append(f"step {job['step']}/{job['total_steps']}")
        parts.append(f"{job['steps_remaining']} to go")
    if job["train_loss"] is not None:
        parts.append(f"loss {job['train_loss']:.4f}")
    if job["eval_loss"] is not None:
        parts.append(f"held-out loss {job['eval_loss']:.4f} at step {job['eval_step']}")
    if job["tokens_per_second"] is not None:
        parts.append(f"{job['tokens_per_second']:.0f} tokens/s")
    parts.append(f"cost {job['cost']['text']}")
    parts.append(f"balance {job['balance']['text']}")
    parts.extend(job[name] for name in ("model", "error_class") if job[name])
    return " · ".join(parts)


def quote(answer: Answer) -> RenderableType:
    """Fit, phases, cost range and gates of a job that was not approved."""
    fit, priced, balance = answer["fit"], answer["estimate"], answer["balance"]
    capacity = answer["capacity"]
    phases = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("phase", "low", "high"):
        phases.add_column(name, justify="left" if name == "phase" else "right")
    for phase in priced["phases"]:
        phases.add_row(
            phase["phase"].replace("_", " "),
            spoken(phase["low_seconds"]),
            spoken(phase["high_seconds"]),
        )
    left = balance["left"]["text"]
    lines = [
        f"{fit['banner']}",
        f"cost {priced['low']['text']} to {priced['high']['text']}, "
        f"{spoken(priced['low_seconds'])} to {spoken(priced['high_seconds'])}, "
        f"{priced['total_steps']:,} steps, {priced['tokens']:,} tokens; "
        + (
            f"calibrated from {priced['calibrated_from']} finished jobs"
            if priced["calibrated_from"]
            else "not calibrated by a finished job yet"
        ),
        f"balance {balance['balance']['text']}, {left} if it costs the upper bound",
        _gate(balance["missing"], capacity),
        *(f"note: {warning}" for warning in answer["warnings"]),
    ]
    return Group(*(Text(line) for line in lines), phases)


def _gate(missing: Answer, capacity: Answer) -> str:
    """What stands before the approval."""
    hindrances = []
    if missing["micros"]:
        hindrances.append(f"top up {missing['text']} first")
    if capacity["wait_seconds"] != 0:
        wait = capacity["wait_seconds"]
        hindrances.append(
            "no GPU is free"
            + ("" if wait is None else f" for about {spoken(wait)}")
            + "".join(
                f"; {place['free']} of {place['gpu_type']} in {place['region']}"
                for place in capacity["elsewhere"]
            )
        )
    return "; ".join(hindrances) or "ready to approve"


def log(answer: Answer) -> RenderableType:
    """A trainer's lines as they are."""
    return Group(*(Text(line["text"]) for line in answer["data"]))


def evaluations(answer: Answer) -> RenderableType:
    """Evaluations, one a line."""
    rows = [
        each
        | {"eval_loss": f"{each['eval_loss']:.4f}", "perplexity": f"{each['perplexity']:.4g}"}
        | {"accuracy": f"{each['accuracy']:.1%}"}
        for each in answer["data"]
    ]
    return _table(
        rows,
        *("step", "eval_loss", "perplexity", "accuracy", "examples", "measured_at"),
        empty="The job was not evaluated yet.",
    )


def checkpoints(answer: Answer) -> RenderableType:
    """Checkpoints, one a line, with the answer to the fixed prompt."""
    rows = [
        each | {"answer": each["sample"]["answer"] if each["sample"] else None}
        for each in answer["data"]
    ]
    return _table(
        rows,
        *("step", "segment", "train_loss", "eval_loss", "total_bytes", "answer"),
        empty="Nothing is saved.",
    )


def models(answer: Answer) -> RenderableType:
    """Base models, then registered ones."""
    return Group(
        _table(
            answer["base_models"],
            *("name", "architecture", "parameters", "context_length", "imported_at"),
            empty="There are no base models; an operator imports them.",
        ),
        _table(
            answer["models"],
            *("model", "job_id", "registered_at"),
            empty="You have no models of your own yet.",
        ),
    )


def ledger(answer: Answer) -> RenderableType:
    """Postings, one a line."""
    return _table(
        answer["data"],
        *("posted_at", "debit", "credit", "amount", "reason", "job_id", "segment", "minute"),
        empty="Nothing was posted yet.",
        shorten={"debit": _kind, "credit": _kind},
    )


def statement_days(answer: Answer) -> RenderableType:
    """Days on which something moved, one a line."""
    moved = ("top_ups", "credits", "charges", "reversals")
    days = [day for day in answer["data"] if any(day[name]["micros"] for name in moved)]
    return _table(days, "day", "opening", *moved, "closing", empty="Nothing moved on these days.")


def statement_jobs(answer: Answer) -> RenderableType:
    """Jobs that were billed, one a line."""
    return _table(
        answer["data"],
        *("job_id", "segments", "minutes", "seconds", "charges", "reversals", "net"),
        empty="No job was billed on these days.",
    )


def _table(
    rows: Iterable[Answer],
    *columns: str,
    empty: str,
    shorten: Mapping[str, Callable[[str], str]] | None = None,
) -> RenderableType:
    rows = list(rows)
    if not rows:
        return Text(empty, style="dim")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in columns:
        number = isinstance(rows[0][name], (int, float, dict))
        table.add_column(
            name.replace("_", " "),
            justify="right" if number else "left",
            no_wrap=name in COPIED,
        )
    for row in rows:
        shown = {name: (shorten or {}).get(name, lambda text: text)(row[name]) for name in columns}
        table.add_row(*(_text(name, value) for name, value in shown.items()))
    return table


def _kind(account: str) -> str:
    """A ledger account without the id, which is the reader's own."""
    return account.partition(":")[0]


def _text(name: str, value: object) -> Text:
    if value is None:
        return Text("")
    if name.endswith("_at"):
        return Text(str(value)[:TIME_CHARACTERS].replace("T", " "))
    if isinstance(value, dict) and value.keys() == {"micros", "text"}:
        return Text(value["text"])
    if isinstance(value, dict):
        known = {key: each for key, each in value.items() if each is not None}
        return Text(", ".join(f"{key} {_text(key, each)}" for key, each in known.items()))
    if isinstance(value, list):
        return Text("; ".join(str(_text(name, each)) for each in value))
    return Text(str(value))
