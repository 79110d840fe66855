"""The oracle: examples calculated by hand, and independence of the domain."""

from __future__ import annotations

import ast
from pathlib import Path

import tests.simulation.oracle
from tests.simulation.oracle import Oracle, cost


def test_it_imports_nothing_of_ours() -> None:
    source = Path(tests.simulation.oracle.__file__).read_text()
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    assert imported == {"__future__", "collections", "dataclasses"}


def test_half_a_micro_dollar_is_rounded_up() -> None:
    assert [cost(1800, seconds) for seconds in (0, 1, 2, 3)] == [0, 1, 1, 2]
    assert [cost(1799, seconds) for seconds in (1, 2)] == [0, 1]


def test_a_life_of_one_segment() -> None:
    oracle = Oracle(minute=60)
    oracle.pay_in("a", 1_000_000)
    oracle.open("s", "a", 3_600_000)  # 1,000 micro-dollars per second
    oracle.lease("s", 300)
    assert (oracle.balance("a"), oracle.reserved("a")) == (1_000_000, 300_000)
    oracle.tick("s", shown=130, clock=1000)
    assert (oracle.balance("a"), oracle.reserved("a")) == (880_000, 180_000)
    oracle.tick("s", shown=1000, clock=59)
    assert oracle.balance("a") == 880_000, "what was billed stays billed"
    oracle.end("s", shown=145, clock=1000, kept=100)
    assert oracle.balance("a") == 1_000_000 - 145_000 + 45_000
    assert oracle.reserved("a") == 0
    oracle.forget("s")
    assert oracle.balance("a") == 900_000


def test_a_lease_that_is_used_up_is_due_to_the_second() -> None:
    oracle = Oracle(minute=60)
    oracle.open("s", "a", 3_600_000)
    oracle.lease("s", 95)
    oracle.tick("s", shown=94, clock=94)
    assert oracle.segments["s"].billed == 60
    oracle.tick("s", shown=200, clock=200)
    assert oracle.segments["s"].billed == 95
