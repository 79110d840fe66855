"""Input and output of the commands: the gateway, replies, progress bars and errors."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import Parameter
from typing import Annotated, Any, NoReturn, Protocol, TypeVar

import typer
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from typer.core import TyperGroup

from gateway.cli.client import Client, ClientError, Endpoint, Refused, Reply, sentence_of
from gateway.cli.exits import ExitCode, exit_code_of

T = TypeVar("T")

PIPE_COLUMNS = 4096
"""Output width in a pipe. Programs need complete lines, so no line is cut or wrapped."""

errors = Console(stderr=True, highlight=False)

for_programs = ContextVar("for_programs", default=False)
"""True with --json: the command prints no notes, and errors are JSON."""

AsJson = Annotated[bool, typer.Option("--json", help="Print only JSON.")]


class Commands(TyperGroup):
    """Group of all commands. With --json, it also reports usage errors as JSON."""

    def invoke(self, ctx: Any) -> Any:  # typer exports only a subclass of its type
        """Run the requested command."""
        before = for_programs.set("--json" in [*ctx._protected_args, *ctx.args])
        try:
            return super().invoke(ctx)
        except typer.TyperException as error:
            if not for_programs.get() or error.exit_code != ExitCode.USAGE:
                raise
            fail(error.format_message(), ExitCode.USAGE)
        finally:
            for_programs.reset(before)


class CommandGroup(typer.Typer):
    """A group whose commands have the option `--json`, which `show` and `note` observe.

    A command gets a client of the gateway as its parameter `client`. A command that first checks
    its options gets `ctx`, and calls `client_of` after the check. If the gateway or a file has an
    error, it is printed, and the command exits with its code.
    """

    def command(self, name: str | None = None, **settings: Any) -> Callable[..., Any]:
        """Return a decorator that adds a command to the group."""
        add = super().command(name, **settings)

        def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
            reads_json = "as_json" in inspect.signature(command).parameters
            add(command if reads_json else _with_json(command))
            return command

        return decorate


def _with_json(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command with `--json` instead of the parameter `client`."""
    signature = inspect.signature(command, eval_str=True)
    needs = signature.parameters.keys()

    def run(ctx: typer.Context, as_json: bool = False, **options: Any) -> None:
        for_programs.set(as_json)
        if "ctx" in needs:
            options["ctx"] = ctx
        with _reported_errors(ctx):
            if "client" in needs:
                with client_of(ctx) as client:
                    command(client=client, **options)
            else:
                command(**options)

    ctx = Parameter("ctx", Parameter.KEYWORD_ONLY, annotation=typer.Context)
    as_json = Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)
    own = [
        each.replace(kind=Parameter.KEYWORD_ONLY)
        for name, each in signature.parameters.items()
        if name not in ("ctx", "client")
    ]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = signature.replace(parameters=[ctx, *own, as_json])  # pyright: ignore
    return run


class Finder(Protocol):
    """Finder of the gateway and the API key. Commands get it as `ctx.obj`."""

    def endpoint(self) -> Endpoint:
        """Return the gateway and the API key. Raise ClientError on failure."""
        ...

    def given(self) -> tuple[str | None, str | None]:
        """Return the URL and key from options or environment. Defaults to the local stack's URL."""
        ...


def client_of(ctx: typer.Context) -> Client:
    """Return a client of the gateway. Raise ClientError if the user is not signed in."""
    finder: Finder = ctx.obj
    return Client(finder.endpoint())


@contextmanager
def _reported_errors(ctx: typer.Context) -> Generator[None]:
    try:
        yield
    except Refused as error:
        sentence = sentence_of(error.status, error.problem, _names(ctx))
        fail(sentence, exit_code_of(error), error.problem | {"status": error.status})
    except BrokenPipeError:
        raise  # the reader closed the pipe, which is not an error
    except (ClientError, OSError) as error:
        fail(str(error), exit_code_of(error))


def fail(message: str, code: ExitCode, problem: dict[str, Any] | None = None) -> NoReturn:
    """Print an error on standard error, and exit. `problem` is the gateway's error, for JSON."""
    if for_programs.get():
        named = {"code": code.name.lower(), "message": message.strip()}
        print(json.dumps({"error": named | (problem or {})}), file=sys.stderr)
    else:
        _print(message, "red")
    raise typer.Exit(code) from None


def interrupted(message: str) -> NoReturn:
    """Print what keeps running after Ctrl-C, and exit."""
    if not for_programs.get():
        note(message)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    fail(message, ExitCode.INTERRUPTED)


def note(message: str) -> None:
    """Print a note on standard error, unless --json is set."""
    if not for_programs.get():
        _print(message, "dim")


def asks() -> bool:
    """Return True if a command may ask questions: on a terminal, without --json."""
    return sys.stdin.isatty() and not for_programs.get()


def agreed(question: str) -> bool:
    """Return the answer to a question, or True if the command may not ask."""
    return typer.confirm(question, err=True) if asks() else True


def _print(message: str, style: str) -> None:
    """Print a message. Wrap it only on a terminal."""
    errors.print(message, style=style, markup=False, soft_wrap=not errors.is_terminal)


def _names(ctx: typer.Context) -> Callable[[str], str]:
    typed = {param.name: param for param in ctx.command.params}

    def name(field: str) -> str:
        for part in field.split("."):
            param = typed.get(part) or typed.get(part.removesuffix("_id"))
            if param is not None:
                return max(param.opts, key=len)
        return field

    return name


def screen() -> Console:
    """Return a console for standard output, without markup. In a pipe its width is unlimited."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    return console


def show(reply: Reply[T], draw: Callable[[T], RenderableType]) -> None:
    """Print a reply as JSON with --json, otherwise in readable form."""
    if for_programs.get():
        print(json.dumps(reply.document, indent=1))
    else:
        screen().print(draw(reply.model))


def show_line(document: dict[str, Any]) -> None:
    """Print a document as one line of JSON, without buffering."""
    print(json.dumps(document), flush=True)


@contextmanager
def bar(title: str, total_bytes: int) -> Generator[Callable[[int], None]]:
    """Show a progress bar on a terminal. Yield a function that advances it by bytes."""
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


@contextmanager
def counter(title: str, total: int) -> Generator[Callable[[int], None]]:
    """Show a progress bar on a terminal. Yield a function that advances it by a number."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=errors, transient=True, disable=not errors.is_terminal
    ) as shown:
        task = shown.add_task(title, total=total)
        yield lambda count: shown.advance(task, count)
