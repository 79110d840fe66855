"""How the command line draws the API's answers, but for those on jobs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from domain.core.money import decimals_of, exact_dollars
from gateway.cli.fitting_table import FittingTable

Answer = dict[str, Any]

PROSE = frozenset({"name", "reason", "answer", "title"})
"""Columns whose text may go on in the next line."""

TIME_CHARACTERS = 19  # to the second; the offset of UTC stays away

STYLES = {
    "registered": "green",
    "active": "green",
    "ready_for_training": "green",
    "paused": "yellow",
    "validating": "yellow",
    "failed": "red",
    "rejected": "red",
    "cancelled": "red",
}
"""States that catch the eye."""


def fields(answer: Answer) -> RenderableType:
    """Every field that has a value, one a line."""
    shown = {_title(name): cell(name, value) for name, value in answer.items()}
    return pairs({name: text for name, text in shown.items() if text.plain})


def pairs(values: Mapping[str, Text | str]) -> RenderableType:
    """Names and values, one a line."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, value)
    return table


def session(answer: Answer) -> RenderableType:
    """A gateway, and the account that a key there stands for."""
    account = answer["account"]
    shown = {
        "gateway": answer["url"],
        "account": account["name"],
        "id": account["id"],
        "role": account["role"],
        "balance": account["balance"]["text"],
    }
    return pairs({name: value for name, value in shown.items() if value})


def secret(answer: Answer) -> RenderableType:
    """A new key's secret and nothing else, so that it can be piped."""
    return Text(answer["secret"])


def keys(answer: Answer) -> RenderableType:
    """API keys, one a line."""
    rows = [
        each | {"ends_in": each["hint"], "note": "in use here" if each["current"] else None}
        for each in answer["data"]
    ]
    return listing(rows, "id", "ends_in", "issued_at", "revoked_at", "note", empty="No keys.")


def datasets(answer: Answer) -> RenderableType:
    """Datasets, one a line."""
    return listing(
        answer["data"],
        *("id", "name", "status", "examples", "errors", "uploaded_at", "duplicates"),
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
        if problem.get("excerpt"):
            lines.append(_excerpt(problem["excerpt"]))
    untold = answer["error_count"] - len(answer["errors"])
    if untold > 0:
        lines.append(Text(f"and {untold} more lines with errors", style="red"))
    return Group(*lines)


def _excerpt(part: Answer) -> Text:
    """A part of a line, with what is wrong in it standing out."""
    text, start, end = part["text"], part["start"], part["end"]
    return Text.assemble(
        "  …" if part["column"] > 1 else "  ",
        text[:start],
        (text[start:end], "reverse"),
        text[end:] + ("…" if part["goes_on"] else ""),
    )


def models(answer: Answer) -> RenderableType:
    """Base models, then registered ones, then what stopped jobs had saved."""
    tables = [
        listing(
            answer["base_models"],
            *("name", "parameters", "context_length", "deployment", "architecture", "imported_at"),
            empty="There are no base models; an operator imports them.",
        ),
        Text(),
        listing(
            answer["models"],
            *("model", "deployment", "registered_at", "job_id"),
            empty="You have no models of your own yet.",
        ),
    ]
    if answer["kept"]:
        rows = [each | {"kept_until": each["expires_at"]} for each in answer["kept"]]
        title = Text("\nKept of stopped jobs; `ecolink jobs promote JOB` makes a model of it:")
        tables += [title, listing(rows, "job_id", "status", "step", "kept_until", empty="")]
    return Group(*tables)


def download(answer: Answer) -> RenderableType:
    """Where a download is; every file of it was held against the manifest."""
    size = decimal(answer["total_bytes"])
    return pairs(
        {
            "downloaded": answer["name"],
            "directory": answer["directory"],
            "files": f"{len(answer['files'])}, {size} in all; every hash is that of the manifest",
        }
    )


def deployment(answer: Answer) -> RenderableType:
    """One deployment, and why it failed if it did."""
    failure = answer["failure"]
    shown = answer | {
        "failure": failure and failure["message"],
        "advice": failure and failure["advice"],
    }
    return fields({name: value for name, value in shown.items() if name != "id"})


def deployments(answer: Answer) -> RenderableType:
    """Deployments, one a line."""
    return listing(
        answer["data"],
        *("model", "status", "base_model", "changed_at", "job_id"),
        empty="Nothing is deployed; `ecolink models deploy MODEL` does it.",
    )


def ledger(answer: Answer) -> RenderableType:
    """Postings, one a line."""
    rows = [
        each | {"debit": _kind(each["debit"]), "credit": _kind(each["credit"])}
        for each in answer["data"]
    ]
    return listing(
        _exact(rows),
        *("posted_at", "amount", "debit", "credit", "reason", "segment", "minute", "job_id"),
        empty="Nothing was posted yet.",
    )


def statement_days(answer: Answer) -> RenderableType:
    """Days on which something moved, one a line."""
    moved = ("top_ups", "credits", "charges", "reversals")
    days = [day for day in answer["data"] if any(day[name]["micros"] for name in moved)]
    return listing(
        _exact(days), "day", "opening", *moved, "closing", empty="Nothing moved on these days."
    )


def statement_jobs(answer: Answer) -> RenderableType:
    """Jobs that were billed, one a line."""
    return listing(
        _exact(answer["data"]),
        *(
            "job_id",
            "name",
            "net",
            "charges",
            "reversals",
            "minutes",
            "seconds",
            "segments",
            "dataset",
            "base_model",
        ),
        empty="No job was billed on these days.",
    )


def _exact(rows: list[Answer]) -> list[Answer]:
    """Rows whose amounts people add up: not rounded, and all with as many decimals."""
    amounts = [each["micros"] for row in rows for each in row.values() if _is_amount(each)]
    decimals = decimals_of(amounts)
    return [
        {
            name: each | {"text": exact_dollars(each["micros"], decimals)}
            if _is_amount(each)
            else each
            for name, each in row.items()
        }
        for row in rows
    ]


def _is_amount(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {"micros", "text"}


def listing(
    rows: Iterable[Answer], *columns: str, empty: str = "", right: Collection[str] = ()
) -> RenderableType:
    """Rows of answers as a table; the columns come in order of importance.

    Numbers and amounts stand on the right, as do the columns in `right`, written-out numbers.
    """
    rows = list(rows)
    if not rows:
        return Text(empty, style="dim")
    numbers = {
        name
        for name in columns
        if name in right or any(isinstance(row[name], (int, float, dict)) for row in rows)
    }
    drawn = [{name: cell(name, row[name]) for name in columns} for row in rows]
    return FittingTable(columns, drawn, numbers=numbers, prose=PROSE.intersection(columns))


def cell(name: str, value: object) -> Text:
    """One value of an answer as people read it."""
    match value:
        case None | []:
            return Text()
        case bool():
            return Text("yes" if value else "no")
        case {"micros": int(), "text": str(text)}:
            return Text(text)
        case dict():
            known = {key: cell(key, each).plain for key, each in value.items()}
            return Text(", ".join(f"{_title(key)} {text}" for key, text in known.items() if text))
        case list():
            return Text("; ".join(str(cell(name, each)) for each in value))
        case str() if name.endswith("_at"):
            return Text(value[:TIME_CHARACTERS].replace("T", " "))
        case int() if name in ("parameters", "examples", "tokens", "total_bytes"):
            return Text(f"{value:,}")
        case _:
            return Text(tame(str(value)), style=STYLES.get(str(value), ""))


def _title(name: str) -> str:
    return name.replace("_", " ")


def tame(text: str) -> str:
    """Text of models and trainers without what would control a terminal."""
    return "".join(each for each in text if each in "\n\t" or each.isprintable())


def _kind(account: str) -> str:
    """A ledger account without the id, which is the reader's own."""
    return account.partition(":")[0]
