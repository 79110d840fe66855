"""What a bench measured against its aims, and the exit status that says so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import typer
from rich.console import Console


class Verdict(NamedTuple):
    """A figure in words, its aim, and whether it meets that."""

    figure: str
    aim: str
    met: bool

    def __str__(self) -> str:
        """All three on a line."""
        return f"{self.figure} (aim {self.aim}: {'met' if self.met else 'missed'})"


def conclude(console: Console, verdicts: Iterable[Verdict]) -> None:
    """Print verdicts, one a line; exits with status 1 if an aim is missed."""
    missed = False
    for verdict in verdicts:
        console.print(str(verdict))
        missed = missed or not verdict.met
    if missed:
        raise typer.Exit(1)
