"""The `ecolink` command and a gateway for its tests."""

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
from tests.builders.platform import Person
from tests.gateway.conftest import application
from tests.polling import eventually


def ecolink(*arguments: str, stdin: str | None = None, columns: int = 80) -> Result:
    """Run a command. The output of a pipe is never truncated."""
    return CliRunner().invoke(main, arguments, input=stdin, env={"COLUMNS": str(columns)})


def plain(shown: str) -> str:
    """Return text without colour escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


@dataclass(frozen=True)
class CommandLine:
    """The commands of one person on one gateway."""

    url: str
    key: str

    def run(self, *arguments: str, code: int = 0) -> str:
        """Return the standard output of a command with the expected exit code."""
        result = ecolink("--url", self.url, "--key", self.key, *arguments)
        assert result.exit_code == code, (result.output, result.exception)
        assert "Traceback" not in result.output
        return result.stdout

    def refused(self, *arguments: str, code: int) -> str:
        """Return the standard error of a command that prints nothing else."""
        result = ecolink("--url", self.url, "--key", self.key, *arguments)
        assert result.exit_code == code, (result.output, result.exception)
        assert result.stdout == ""
        return result.stderr

    def read(self, *arguments: str, code: int = 0) -> Any:
        """Return the only JSON document that a command prints."""
        return json.loads(self.run(*arguments, "--json", code=code))

    def lines(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        """Return the JSON lines that a command prints while it follows a job."""
        printed = self.run(*arguments, "--json", code=code)
        return [json.loads(line) for line in printed.splitlines()]


@dataclass(frozen=True)
class Served:
    """A gateway that serves HTTP from a thread of this process, because it starts faster."""

    url: str

    def as_person(self, person: Person) -> CommandLine:
        """Return the commands of a person on this gateway."""
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
