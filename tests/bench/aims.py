"""Compare a benchmark's figures with its aims, and exit accordingly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import typer
from rich.console import Console


class Verdict(NamedTuple):
    """A figure as text, its aim, and whether it meets the aim."""

    figure: str
    aim: str
    met: bool

    def __str__(self) -> str:
        """Figure, aim and result in one line."""
        return f"{self.figure} (aim {self.aim}: {'met' if self.met else 'missed'})"


def conclude(console: Console, verdicts: Iterable[Verdict]) -> None:
    """Print the verdicts, one per line. Exits with 1 if an aim is missed."""
    missed = False
    for verdict in verdicts:
        console.print(str(verdict))
        missed = missed or not verdict.met
    if missed:
        raise typer.Exit(1)
