"""The commands of `ecolink`, from their own help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from deploy.cli import main
from tests.docs import markdown
from tests.docs.markdown import code, text

UNDOCUMENTED = ("help", "install_completion", "show_completion")


def page() -> str:
    """Every command with its arguments and options."""
    root: Any = typer.main.get_command(main)
    return markdown.page(
        "Command line",
        "This page lists every command of `ecolink` with its arguments and options. "
        "`ecolink COMMAND --help` shows the same. Scripts use `--json` and the "
        "[exit codes](exit-codes.md).",
        markdown.section("ecolink", "Options before the command:", _options(root)),
        *_commands(root, "ecolink"),
    )


def _commands(group: Any, name: str) -> Iterator[str]:
    """The commands of a group, then the groups in it."""
    inner: list[str] = []
    for each, command in group.commands.items():
        if hasattr(command, "commands"):
            inner.append(markdown.section(f"{name} {each}", text(command.help)))
            inner += _commands(command, f"{name} {each}")
        elif not command.hidden:
            usage = command.collect_usage_pieces(command.context_class(command))
            yield markdown.section(
                f"{name} {each}",
                code(" ".join([name, each, *usage])),
                text(command.help),
                _options(command),
                level=2 if name == "ecolink" else 3,
            )
    yield from inner


def _options(command: Any) -> str:
    rows = [_row(each) for each in command.params if each.name not in UNDOCUMENTED]
    return markdown.table(("argument or option", "default", "meaning"), rows)


def _row(parameter: Any) -> tuple[str, ...]:
    names = [*parameter.opts, *parameter.secondary_opts]
    shown = ", ".join(map(code, names))
    if parameter.required:
        default = "required"
    elif parameter.default is True:
        default = code(parameter.opts[0])
    elif parameter.default in (None, False, [], ()) or callable(parameter.default):
        default = ""
    else:
        default = code(parameter.default)
    return shown, default, text(parameter.help)
