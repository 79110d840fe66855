"""What the account holder's commands share: finding the gateway, answers, progress and errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, NoReturn, Protocol

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from typer._click import Context  # what a group is invoked with
from typer._click.exceptions import UsageError  # typer shows but one kind of it
from typer.core import TyperGroup

from gateway.cli.client import Client, ClientError, Endpoint, Refused, sentence_of
from gateway.cli.exits import ExitCode, exit_code_of

PIPE_COLUMNS = 4096
"""Width where there is no terminal: nothing is cut or wrapped, what reads it wants whole lines."""

errors = Console(stderr=True, highlight=False)

for_programs = ContextVar("for_programs", default=False)
"""Whether the command was given --json: then nothing is said to a person, and an error is JSON."""

AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON on standard output, and nothing else.")
]


class Commands(TyperGroup):
    """All commands; with --json also what is wrong with the options is told as JSON."""

    def invoke(self, ctx: Context) -> Any:
        """Invoke the command that the arguments name."""
        before = for_programs.set("--json" in [*ctx._protected_args, *ctx.args])
        try:
            return super().invoke(ctx)
        except UsageError as error:
            if not for_programs.get():
                raise
            fail(error.format_message(), ExitCode.USAGE)
        finally:
            for_programs.reset(before)


class Finder(Protocol):
    """Finds the gateway; whoever assembles the commands puts one into `ctx.obj`."""

    def endpoint(self) -> Endpoint:
        """The gateway to call, and the key to show; raises ClientError."""
        ...

    def given(self) -> tuple[str | None, str | None]:
        """URL and key by option or environment; else the URL of the stack that runs here."""
        ...


@contextmanager
def client_of(ctx: typer.Context) -> Generator[Client]:
    """A client of the located gateway; an error is one sentence, and the exit code of its kind."""
    finder: Finder = ctx.obj
    with told_errors(ctx), Client(finder.endpoint()) as client:
        yield client


@contextmanager
def told_errors(ctx: typer.Context) -> Generator[None]:
    """Tell an error of the gateway or of a file in one sentence, and exit with its code."""
    try:
        yield
    except Refused as error:
        sentence = sentence_of(error.status, error.problem, _names(ctx))
        fail(sentence, exit_code_of(error), error.problem | {"status": error.status})
    except BrokenPipeError:
        raise  # whoever reads has heard enough, which is no error
    except (ClientError, OSError) as error:
        fail(str(error), exit_code_of(error))


def fail(message: str, code: ExitCode, problem: dict[str, Any] | None = None) -> NoReturn:
    """Tell what is wrong on standard error, and exit; `problem` is what the gateway says of it."""
    if for_programs.get():
        named = {"code": code.name.lower(), "message": message.strip()}
        print(json.dumps({"error": named | (problem or {})}), file=sys.stderr)
    else:
        _tell(message, "red")
    raise typer.Exit(code) from None


def interrupted(message: str) -> NoReturn:
    """Say what goes on although Ctrl-C ended the command, and exit."""
    if not for_programs.get():
        note(message)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    fail(message, ExitCode.INTERRUPTED)


def note(message: str) -> None:
    """Say something to the person on standard error; with --json there is none."""
    if not for_programs.get():
        _tell(message, "dim")


def _tell(message: str, style: str) -> None:
    """On a terminal words are not broken; elsewhere a sentence stays on its line."""
    errors.print(message, style=style, markup=False, soft_wrap=not errors.is_terminal)


def _names(ctx: typer.Context) -> Callable[[str], str]:
    """What a person calls the API's fields: the options and arguments of the command."""
    typed = {param.name: param for param in ctx.command.params}

    def name(field: str) -> str:
        for part in field.split("."):
            param = typed.get(part) or typed.get(part.removesuffix("_id"))
            if param is not None:
                return max(param.opts, key=len)
        return field

    return name


def screen() -> Console:
    """Standard output, without markup; as wide as need be where it is no terminal."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    return console


def show(answer: dict[str, Any], as_json: bool, draw: Callable[[dict[str, Any]], Any]) -> None:
    """Print an answer as JSON or drawn."""
    if as_json:
        print(json.dumps(answer, indent=1))
    else:
        screen().print(draw(answer))


def show_line(answer: dict[str, Any]) -> None:
    """Print an answer as one line of JSON, at once: someone may be following."""
    print(json.dumps(answer), flush=True)


@contextmanager
def bar(title: str, total_bytes: int) -> Generator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal; the function is told each part's bytes."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=errors, transient=True, disable=not errors.is_terminal
    ) as shown:
        task = shown.add_task(title, total=total_bytes)
        yield lambda size: shown.advance(task, size)
