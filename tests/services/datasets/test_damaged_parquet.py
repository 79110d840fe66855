"""A damaged Parquet file ends in a report, not in the end of the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

DAMAGED_STATISTICS = 3554
"""Seed of a file for which pyarrow 26 ends the process if it is asked for a column's statistics."""

ROWS_ONLY_DECLARED = 4484


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param((DAMAGED_STATISTICS, ROWS_ONLY_DECLARED, *range(150)), id="few"),
        pytest.param(range(10_000), id="many", marks=pytest.mark.full),
    ],
)
def test_damaged_files_end_in_a_report(seeds: tuple[int, ...] | range) -> None:
    module = "tests.services.datasets.damaged_parquet"
    run = subprocess.run(
        [sys.executable, "-m", module, *map(str, seeds)], capture_output=True, text=True
    )
    last = run.stdout.split()[-1]
    assert (last, run.returncode, run.stderr) == (str(seeds[-1]), 0, "")
