"""`ecolink bench serve`: chats answered together against the libraries' `generate`, one by one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from deploy.bench.aims import Verdict, conclude
from deploy.bench.learning import last_line, smollm2
from deploy.demo.chats import demo_chats
from services.serving.measured_serving import (
    MODULE,
    Chat,
    ServingConfig,
    ServingResult,
    Turn,
)

AIM = 3.0  # times as many tokens a second
ADAPTERS = 2
HISTORIES = (0, 1, 4, 10)
"""Earlier conversations in a request's messages: prompts of some 40 to some 400 tokens."""


def bench(
    concurrent: Annotated[int, typer.Option(help="Chats that are asked at once.", min=1)] = 16,
    tokens: Annotated[int, typer.Option(help="Of each answer.", min=2)] = 64,
    repeats: Annotated[int, typer.Option(help="Turns of each, interleaved.", min=1)] = 3,
    model: Annotated[
        Path | None, typer.Option(help="Directory of a base; without it SmolLM2-135M.")
    ] = None,
    precision: Annotated[
        Literal["bf16", "fp32"] | None,
        typer.Option(help="Of both; without it what the machine is good at."),
    ] = None,
    exact: Annotated[bool, typer.Option(help="Also compare the answers in float32, once.")] = True,
) -> None:
    """Measure tokens a second and the time to the first token, base and two adapters mixed.

    Both have the same model, prompts and numbers of tokens, greedy, in one process; the exit code
    is 1 if serving has less than three times the tokens a second, or answers otherwise in float32.
    """
    console = Console()
    with TemporaryDirectory(prefix="ecolink-bench-") as folder:
        base = model or smollm2(Path(folder))
        config = ServingConfig(
            model=base,
            adapters=ADAPTERS,
            chats=requests(concurrent),
            tokens=tokens,
            repeats=repeats,
            precision=precision,
        )
        measured = _run(config)
        others = _run(_exactly(config)) if exact and measured.dtype != "fp32" else None
    console.print(_table(measured))
    for each in (measured, others):
        if each is not None:
            _print_agreement(console, config.chats, each)
    gain = speed(measured.batched) / speed(measured.sequential)
    conclude(console, [Verdict(f"{gain:.1f} times the tokens a second", f"{AIM:.0f}", gain >= AIM)])
    in_float32 = measured if measured.dtype == "fp32" else others
    if in_float32 is not None and not _agreement(in_float32).whole:
        raise typer.Exit(1)


def requests(count: int) -> tuple[Chat, ...]:
    """Chats of several lengths, in turns for the base and for each adapter."""
    chats = [chat["messages"] for chat in demo_chats(count + sum(HISTORIES))]
    asked = []
    for index in range(count):
        history = HISTORIES[index % len(HISTORIES)]
        earlier = [message for chat in chats[count : count + history] for message in chat]
        which = index % (ADAPTERS + 1)
        asked.append(
            Chat(
                adapter=None if which == 0 else which - 1,
                messages=[*earlier, chats[index][0]],
            )
        )
    return tuple(asked)


@dataclass(frozen=True)
class Agreement:
    """How far the answers of two turns are the same."""

    same: int  # answers that are, from the first token to the last
    answers: int
    shared_tokens: int  # before the first that differs
    tokens: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Agreement:
        """Compare answers, two by two."""
        return cls(
            same=sum(a == b for a, b in pairs),
            answers=len(pairs),
            shared_tokens=sum(_shared(a, b) for a, b in pairs),
            tokens=sum(len(a) for a, _ in pairs),
        )

    @property
    def whole(self) -> bool:
        """Whether nothing differs."""
        return self.same == self.answers

    def __str__(self) -> str:
        return (
            f"{self.same} of {self.answers} answers equal the libraries' token for token "
            f"({self.same / self.answers:.0%}); {self.shared_tokens / self.tokens:.0%} of the "
            "tokens come before the first that differs"
        )


def speed(turns: Sequence[Turn]) -> float:
    """Tokens a second: the median over the turns."""
    return median(sum(map(len, turn.answers)) / turn.seconds for turn in turns)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=True))
    return next((index for index, (a, b) in pairs if a != b), len(one))


def _exactly(config: ServingConfig) -> ServingConfig:
    return config.model_copy(update={"precision": "fp32", "repeats": 1})


def _run(config: ServingConfig) -> ServingResult:
    command = [sys.executable, "-P", "-m", MODULE]
    return ServingResult.model_validate_json(last_line(command, config.model_dump_json()))


def _agreement(measured: ServingResult) -> Agreement:
    """Of all answers of the first turns."""
    turns = measured.sequential[0], measured.batched[0]
    return Agreement.of(list(zip(*(turn.answers for turn in turns), strict=True)))


def _print_agreement(console: Console, chats: Sequence[Chat], measured: ServingResult) -> None:
    console.print(f"{measured.dtype}: {_agreement(measured)}")
    turns = measured.sequential[0], measured.batched[0]
    pairs = list(zip(*(turn.answers for turn in turns), strict=True))
    for name, adapted in (("base", False), ("adapters", True)):
        own = [
            pair
            for pair, chat in zip(pairs, chats, strict=True)
            if (chat.adapter is not None) is adapted
        ]
        if own:
            console.print(f"  {name}: {Agreement.of(own)}")


def _table(measured: ServingResult) -> Table:
    prompts = measured.prompt_tokens
    answers = measured.batched[0].answers
    table = Table(
        "",
        "tokens/s",
        "first token, median s",
        "first token, last s",
        "all done, s",
        title=f"{len(answers)} chats at once, prompts of {min(prompts)} to {max(prompts)} tokens, "
        f"answers of {len(answers[0])}; base and {ADAPTERS} adapters; {measured.dtype}, "
        f"{measured.threads} threads; medians of {len(measured.batched)} turns",
    )
    for name, turns in (
        ("transformers, one by one", measured.sequential),
        ("EcoLink serving", measured.batched),
    ):
        table.add_row(
            name,
            f"{speed(turns):.1f}",
            f"{median(median(turn.first_seconds) for turn in turns):.2f}",
            f"{median(max(turn.first_seconds) for turn in turns):.2f}",
            f"{median(turn.seconds for turn in turns):.1f}",
        )
    return table
