"""Recall and precision of the quality analysis on planted findings, and its throughput.

A clean corpus gets edited copies, leaks of a validation dataset, and personal data of each kind.
Run it with `python -m tests.extensions.quality.bench`, and `--throughput 100000` for the time and
memory.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from domain.datasets.findings import Finding
from extensions.quality.domain.quality_report import Contamination, QualityReport
from extensions.quality.process_limits import TASKS, limits_of, seconds_of
from extensions.quality.worker.personal_data import Recognizers
from infrastructure.process.limited_process import run
from tests.bench.aims import Verdict, conclude
from tests.builders.planted import EDIT_RATES, Corpus, Writer, line_of, planted
from tests.builders.technical_texts import technical

LEAST_RECALL, LEAST_PRECISION = 0.95, 0.95
COPIES = (0.0, 0.02, 0.05, 0.1)
"""Edit rates of copies that must be found. Of those with a higher rate, some are."""


class Score(NamedTuple):
    """The numbers of planted lines that were found, and of found lines that were planted."""

    name: str
    found: int
    planted: int
    right: int
    reported: int

    @classmethod
    def of(
        cls, name: str, reported: Iterable[int], expected: set[int], also: Iterable[int] = ()
    ) -> Score:
        """Compare reported lines with the expected ones. Those in `also` are right, too."""
        lines = set(reported)
        right = len(lines & expected.union(also))
        return cls(name, len(lines & expected), len(expected), right, len(lines))

    @property
    def recall(self) -> float:
        return self.found / self.planted if self.planted else 1.0

    @property
    def precision(self) -> float:
        return self.right / self.reported if self.reported else 1.0

    def __str__(self) -> str:
        return (
            f"{self.name:34} recall {self.recall:6.1%} ({self.found} of {self.planted}), "
            f"precision {self.precision:6.1%} ({self.right} of {self.reported})"
        )


def request_of(task: str, directory: Path, train: Corpus, validation: Corpus) -> dict[str, Any]:
    """Store corpora in a directory. Return the request of a task on them."""
    examples, other = directory / "train.jsonl", directory / "validation.jsonl"
    examples.write_bytes(train.content())
    other.write_bytes(validation.content())
    return {
        "task": task,
        "examples": str(examples),
        "lines": None,
        "other_examples": str(other),
        "other_lines": None,
        "unit": "line",
        "total": len(train.lines),
        "other_total": len(validation.lines),
        "seconds": seconds_of(examples.stat().st_size),
    }


def scores(train: Corpus, validation: Corpus) -> list[Score]:
    """Analyze and compare the corpora in processes of the service. Return a score per kind."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        request = request_of("analyze", directory, train, validation)
        limits = limits_of(len(train.content()))
        report = QualityReport(**run(TASKS, request, limits))
        leaked = Contamination(**run(TASKS, request | {"task": "contamination"}, limits))
    found = {each.kind: each.lines for each in report.findings}
    copies = found.get(Finding.NEAR_DUPLICATE, ())
    every = set().union(*train.duplicates.values())
    leaks = set().union(*train.leaks.values())
    # Copies of one chat of the validation dataset are copies of each other, too.
    result = [
        Score.of(f"copies, {rate:.0%} of the words edited", copies, lines, every | leaks)
        for rate, lines in train.duplicates.items()
    ]
    result += [
        Score.of(f"leaks, {rate:.0%} of the words edited", leaked.lines, lines, leaks)
        for rate, lines in train.leaks.items()
    ]
    result += [
        Score.of(kind.replace("_", " "), found.get(kind, ()), lines)
        for kind, lines in train.personal.items()
    ]
    return result


def technical_scores(code: int, logs: int) -> list[Score]:
    """Search code and logs for personal data. Return a score of its spans for each of the two.

    A span is right if it covers a marked one of the same kind, such as an address with its prefix.
    """
    texts, recognizers = technical(1, code, logs), Recognizers()
    result = list[Score]()
    for name, part in (("spans in code", texts[:code]), ("spans in lines of logs", texts[code:])):
        found = [(text, span) for text in part for span in recognizers.spans(text.text)]
        planted = sum(len(text.spans) for text in part)
        right = sum(text.covered_by(span) for text, span in found)
        result.append(Score(name, right, planted, right, len(found)))
    return result


def verdicts(found: list[Score]) -> list[Verdict]:
    """Return whether each score reaches its aim. Strongly edited copies have no least recall."""
    hard = {f"{what}, {rate:.0%} of the words edited" for what in ("copies", "leaks")
            for rate in EDIT_RATES if rate not in COPIES}  # fmt: skip
    return [
        Verdict(
            str(each),
            f"{LEAST_RECALL:.0%} and {LEAST_PRECISION:.0%}",
            (each.name in hard or each.recall >= LEAST_RECALL)
            and each.precision >= LEAST_PRECISION,
        )
        for each in found
    ]


def templated(examples: int) -> Iterator[bytes]:
    """Yield lines of chats whose questions all start with the same long instructions."""
    writer = Writer(3)
    instructions = writer.text(14)
    for _ in range(examples):
        question, answer = writer.chat()
        yield line_of([f"{instructions}\n{question}", answer])


def throughput(examples: int, *, has_template: bool = False) -> str:
    """Analyze a corpus of this many examples. Return the time and the memory as a sentence."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "train.jsonl"
        if has_template:
            lines = templated(examples)
        else:
            lines = iter(planted(examples, max(1, examples // 1000))[0].lines)
        with path.open("wb") as file:
            total = sum(1 for line in lines if file.write(line + b"\n"))
        return analyzed(path, total)


def analyzed(path: Path, total: int) -> str:
    """Analyze a file of `total` normalized examples. Return the time and memory as a sentence."""
    size = path.stat().st_size
    request = {
        "task": "analyze",
        "examples": str(path),
        "lines": None,
        "unit": "line",
        "total": total,
        "seconds": seconds_of(size),
    }
    # In a process of its own: Linux counts the memory of the parent in the peak of a child.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        report, seconds, cpu, peak = pool.submit(_measured, request, size).result()
    counts = ", ".join(f"{each.kind} {each.examples:,}" for each in report.findings)
    return (
        f"{report.analyzed:,} of {report.examples:,} examples ({size / 1024**2:.0f} MiB) in "
        f"{seconds:.0f} s, {cpu:.0f} s of computing time, "
        f"{report.analyzed / cpu:,.0f} examples a second of it, "
        f"at most {peak:,} MiB of memory; stopped: {report.stopped}, compared "
        f"{report.compared:,}, crowded {report.crowded:,}; {counts or 'no findings'}"
    )


def _measured(request: dict[str, Any], size: int) -> tuple[QualityReport, float, float, int]:
    """Return the report, the seconds, the computing time in seconds and the memory in MiB."""
    started = time.monotonic()
    report = QualityReport(**run(TASKS, request, limits_of(size)))
    seconds = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return report, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss // 1024


def main() -> None:
    """Print the scores, and exit with 1 if one misses its aim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=4000, help="clean examples")
    parser.add_argument("--each", type=int, default=150, help="planted examples of each kind")
    parser.add_argument("--throughput", type=int, default=0, help="examples to time")
    parser.add_argument(
        "--template", action="store_true", help="time examples that share long instructions"
    )
    given = parser.parse_args()
    console = Console(width=140)
    if given.throughput:
        console.print(throughput(given.throughput, has_template=given.template))
        return
    found = scores(*planted(given.examples, given.each))
    conclude(console, verdicts([*found, *technical_scores(600, 1_000)]))


if __name__ == "__main__":
    main()
