"""The `ecolink` command as a person gives it, and what it answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Thread
from typing import Any

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from deploy.cli import main
from deploy.local.ports import free_port
from infrastructure.settings import Settings
from tests.gateway.conftest import Person, application
from tests.polling import eventually


def ecolink(*arguments: str, stdin: str | None = None, columns: int = 80) -> Result:
    """Run a command; the output of a pipe is never cut, whatever the columns."""
    return CliRunner().invoke(main, arguments, input=stdin, env={"COLUMNS": str(columns)})


def plain(shown: str) -> str:
    """Text without the escape sequences that colour it."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


@dataclass(frozen=True)
class CommandLine:
    """The commands of one person on one gateway."""

    url: str
    key: str

    def run(self, *arguments: str, code: int = 0) -> str:
        """What a command prints on standard output, once its exit code is the expected one."""
        result = ecolink("--url", self.url, "--key", self.key, *arguments)
        assert result.exit_code == code, (result.output, result.exception)
        assert "Traceback" not in result.output
        return result.stdout

    def refused(self, *arguments: str, code: int) -> str:
        """What a command says on standard error, when it prints nothing else."""
        result = ecolink("--url", self.url, "--key", self.key, *arguments)
        assert result.exit_code == code, (result.output, result.exception)
        assert result.stdout == ""
        return result.stderr

    def read(self, *arguments: str, code: int = 0) -> Any:
        """The one JSON document that a command prints."""
        return json.loads(self.run(*arguments, "--json", code=code))

    def lines(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        """The lines of JSON that a command prints while it follows."""
        printed = self.run(*arguments, "--json", code=code)
        return [json.loads(line) for line in printed.splitlines()]


@dataclass(frozen=True)
class Served:
    """A gateway that serves real HTTP from a thread of this process, where it starts at once."""

    url: str

    def as_person(self, person: Person) -> CommandLine:
        """The commands of a person on it."""
        return CommandLine(self.url, person.key)


@pytest.fixture
def served(settings: Settings, projecting: None) -> Iterator[Served]:
    """A gateway, and projections that follow the log."""
    port = free_port(0)
    config = uvicorn.Config(application(settings), port=port, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield Served(f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join()
