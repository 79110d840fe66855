"""Recall and precision of the quality analysis on planted findings, and its throughput.

A clean corpus gets edited copies, leaks of a validation dataset, and personal data of each kind.
Run it with `make bench-quality`, and `ARGS='--throughput 100000'` for the time and memory.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from domain.datasets.findings import Finding
from domain.datasets.quality_report import Contamination, QualityReport
from infrastructure.limited_process import run
from services.datasets.process_limits import limits_of, seconds_of
from services.datasets.validating import WORKER
from tests.bench.aims import Verdict, conclude
from tests.builders.planted import EDIT_RATES, Corpus, planted

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
        cls, name: str, reported: Iterable[int], expected: set[int], also: set[int] = frozenset()
    ) -> Score:
        """Compare reported lines with the expected ones. Those in `also` are right, too."""
        lines = set(reported)
        right = len(lines & (expected | also))
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
        "seconds": seconds_of(examples.stat().st_size),
    }


def scores(train: Corpus, validation: Corpus) -> list[Score]:
    """Analyze and compare the corpora in processes of the service. Return a score per kind."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        request = request_of("analyze", directory, train, validation)
        limits = limits_of(len(train.content()))
        report = QualityReport(**run(WORKER, request, limits))
        leaked = Contamination(**run(WORKER, request | {"task": "contamination"}, limits))
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


def throughput(examples: int) -> str:
    """Analyze a corpus of this many examples. Return the time and the memory as a sentence."""
    train, validation = planted(examples, max(1, examples // 1000))
    size = len(train.content())
    with tempfile.TemporaryDirectory() as directory:
        request = request_of("analyze", Path(directory), train, validation)
        started = time.monotonic()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = QualityReport(**run(WORKER, request, limits_of(size)))
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = time.monotonic() - started
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return (
        f"{report.analyzed:,} of {report.examples:,} examples ({size / 1024**2:.0f} MiB) in "
        f"{seconds:.0f} s, {cpu:.0f} s of computing time, "
        f"{report.analyzed / cpu:,.0f} examples a second of it, "
        f"at most {used.ru_maxrss // 1024:,} MiB of memory"
    )


def main() -> None:
    """Print the scores, and exit with 1 if one misses its aim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=4000, help="clean examples")
    parser.add_argument("--each", type=int, default=150, help="planted examples of each kind")
    parser.add_argument("--throughput", type=int, default=0, help="examples to time")
    given = parser.parse_args()
    console = Console(width=140)
    if given.throughput:
        console.print(throughput(given.throughput))
        return
    conclude(console, verdicts(scores(*planted(given.examples, given.each))))


if __name__ == "__main__":
    main()
