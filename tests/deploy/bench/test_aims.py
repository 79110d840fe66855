"""Aims of a bench: each is told, and one that is missed is its exit status."""

from __future__ import annotations

import pytest
import typer
from rich.console import Console

from deploy.bench.aims import Verdict, conclude

MET, MISSED = Verdict("2.5 x", "2", True), Verdict("1.5 x", "2", False)


def test_one_missed_aim_is_the_exit_status_and_all_are_told() -> None:
    console = Console(highlight=False)
    with console.capture() as captured, pytest.raises(typer.Exit) as left:
        conclude(console, [MISSED, MET])
    assert left.value.exit_code == 1
    assert captured.get() == "1.5 x (aim 2: missed)\n2.5 x (aim 2: met)\n"
    conclude(Console(quiet=True), [MET])
