"""One corpus in every format that EcoLink reads."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from domain.datasets.columns import Columns
from domain.datasets.dataset import UploadOptions
from services.datasets.report import Progress, Report
from services.datasets.unpacking import Sizes
from services.datasets.validation import SAMPLE, Choices, validate_file

Chat = Mapping[str, Any]
SENDERS = {"user": "human", "assistant": "gpt", "system": "system"}
SYSTEM = "You answer for the shop."

PAIRS = [
    ("Where is my order?", "On its way, says the courier."),
    ("When does it arrive?", 'Tomorrow: "before noon",\nif all goes well.'),
    ("Kann ich es zurückgeben? 🙂", "Ja; innerhalb von 30 Tagen."),
    ("List the colours\n\nred, green, blue", "red\tgreen\tblue"),
]


def chat_of(question: str, answer: str, system: str | None = SYSTEM) -> dict[str, Any]:
    """Return an example with a system message, a question and an answer."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": ([{"role": "system", "content": system}] if system else []) + messages}


CORPUS = [chat_of(*pair) for pair in PAIRS]


def jsonl(rows: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def array(rows: Sequence[Any]) -> bytes:
    return json.dumps(rows, indent=1, ensure_ascii=False).encode()


def zipped(*files: tuple[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return content.getvalue()


def table(rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> bytes:
    """Return a table with a header, in the dialect of spreadsheets."""
    content = io.StringIO(newline="")
    writer = csv.DictWriter(content, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return content.getvalue().encode()


def parquet(rows: Sequence[Mapping[str, Any]], **options: Any) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), content, **options)
    return content.getvalue()


def sharegpt(chats: Sequence[Chat]) -> list[dict[str, Any]]:
    """Return the rows of ShareGPT, in which the system prompt has its own column."""
    return [
        {
            "id": number,
            "system": chat["messages"][0]["content"],
            "conversations": [
                {"from": SENDERS[each["role"]], "value": each["content"]}
                for each in chat["messages"][1:]
            ],
        }
        for number, chat in enumerate(chats)
    ]


def named(chats: Sequence[Chat], user: str, assistant: str) -> list[dict[str, Any]]:
    """Return rows with a column for each message."""
    return [
        dict(
            zip(("system", user, assistant), [m["content"] for m in chat["messages"]], strict=True)
        )
        for chat in chats
    ]


def alpaca(chats: Sequence[Chat]) -> list[dict[str, Any]]:
    """Return the rows of Alpaca. The last paragraph of a question becomes its input."""
    rows = []
    for row in named(chats, "instruction", "output"):
        instruction, _, more = row["instruction"].partition("\n\n")
        rows.append({**row, "instruction": instruction, "input": more, "history": []})
    return rows


def transcript(chats: Sequence[Chat]) -> bytes:
    return "\n---\n".join(
        "\n".join(f"{m['role'].title()}: {m['content']}" for m in chat["messages"])
        for chat in chats
    ).encode()


FORMATS: dict[str, Callable[[Sequence[Chat]], bytes]] = {
    "JSONL": jsonl,
    "JSON array": array,
    "JSONL in gzip": lambda chats: gzip.compress(jsonl(chats)),
    "JSON array in gzip": lambda chats: gzip.compress(array(chats)),
    "JSONL in zip": lambda chats: zipped(("__MACOSX/._a", b"x"), ("data/a.jsonl", jsonl(chats))),
    "JSONL in zip in gzip": lambda chats: zipped(("a.gz", gzip.compress(jsonl(chats)))),
    "ShareGPT": lambda chats: jsonl(sharegpt(chats)),
    "Alpaca": lambda chats: array(alpaca(chats)),
    "CSV": lambda chats: table(named(chats, "question", "answer")),
    "CSV of Alpaca": lambda chats: table([{**row, "history": ""} for row in alpaca(chats)], ";"),
    "TSV": lambda chats: table(named(chats, "prompt", "completion"), "\t"),
    "CSV with messages": lambda chats: table(
        [{"messages": json.dumps(c["messages"])} | {"n": 1} for c in chats]
    ),
    "Parquet": parquet,
    "Parquet of ShareGPT": lambda chats: parquet(sharegpt(chats), row_group_size=2),
    "Parquet in zip": lambda chats: zipped(("a.parquet", parquet(named(chats, "query", "reply")))),
    "transcript": transcript,
    "transcript in zip": lambda chats: zipped(("a.txt", transcript(chats))),
}
"""Writers of the corpus, by name of the format."""


def validated_file(
    content: bytes, columns: Columns | None = None, *, unpacked: int = 10**8, **options: bool
) -> tuple[Report, list[dict[str, Any]], dict[str, Any]]:
    """Return the report, the examples and the first rows of an upload."""
    with tempfile.TemporaryDirectory() as name:
        directory, output = Path(name), list[bytes]()
        progress: list[Progress] = []
        (directory / "upload").write_bytes(content)
        report = validate_file(
            directory / "upload",
            output.append,
            directory=directory,
            on_progress=progress.append,
            sizes=Sizes(10**8, unpacked),
            choices=Choices(UploadOptions(**options), columns),
        )
        sample = directory / SAMPLE
        found = json.loads(sample.read_text()) if sample.exists() else {}
    assert progress[-1] == Progress(report.lines, report.bytes)
    return report, [json.loads(line) for line in b"".join(output).splitlines()], found
