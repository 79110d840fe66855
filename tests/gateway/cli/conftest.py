"""The `ecolink` command and a gateway for its tests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from deploy.cli import main
from deploy.local.ports import free_port
from gateway.cli.client import Client, Endpoint
from gateway.http.openai_vocabulary import job_of
from infrastructure.settings import Settings
from tests.builders.platform import Person, Platform
from tests.builders.platform_job import PlatformJob
from tests.gateway.conftest import application
from tests.polling import eventually

CHAT = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'


def ecolink(*arguments: str, stdin: str | None = None, columns: int = 80) -> Result:
    """Run a command. The output of a pipe is never truncated."""
    return CliRunner().invoke(main, arguments, input=stdin, env={"COLUMNS": str(columns)})


def plain(shown: str) -> str:
    """Return text without color escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


def meanwhile(act: Callable[[], None]) -> Thread:
    """Run a function in a thread, while a command follows what it does."""
    thread = Thread(target=act)
    thread.start()
    return thread


@dataclass
class CommandLine:
    """The commands of one person on one gateway."""

    url: str
    key: str

    def result(self, *arguments: str, code: int = 0, stdin: str | None = None) -> Result:
        """Run a command, which must exit with the code."""
        result = ecolink("--url", self.url, "--key", self.key, *arguments, stdin=stdin)
        assert result.exit_code == code, (result.output, result.exception)
        assert "Traceback" not in result.output
        return result

    def run(self, *arguments: str, code: int = 0) -> str:
        """Return the standard output of a command."""
        return self.result(*arguments, code=code).stdout

    def refused(self, *arguments: str, code: int) -> str:
        """Return the standard error of a command that prints nothing else."""
        result = self.result(*arguments, code=code)
        assert result.stdout == ""
        return result.stderr

    def read(self, *arguments: str, code: int = 0) -> Any:
        """Return the only JSON document that a command prints."""
        return json.loads(self.run(*arguments, "--json", code=code))

    def only(self, path: str) -> Any:
        """Return the only document of a list in the API, once it exists.

        Commands replace standard output, so only one thread of a test can run them.
        """
        with Client(Endpoint(self.url, self.key)) as client:
            (found,) = eventually(lambda: client.get(path)["data"])
        return found

    def lines(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        """Return the JSON lines that a command prints while it follows a job."""
        printed = self.run(*arguments, "--json", code=code)
        return [json.loads(line) for line in printed.splitlines()]


@dataclass
class Owner(CommandLine):
    """The commands of a person with $10 and a ready dataset."""

    platform: Platform
    person: Person
    dataset: str
    launch: tuple[str, ...]
    """The arguments that launch a job."""

    def start(self) -> PlatformJob:
        """Launch a job."""
        return self.job(self.read(*self.launch)["id"])

    def job(self, name: str) -> PlatformJob:
        return PlatformJob(self.platform, self.person, job_of(name))

    def only_job(self) -> PlatformJob:
        """Return the only job of the account, once it exists."""
        return self.job(self.only("/jobs")["id"])


@pytest.fixture
def url(settings: Settings, projecting: None) -> Iterator[str]:
    """The URL of a gateway in a thread, which starts faster than a process."""
    port = free_port(0)
    config = uvicorn.Config(application(settings), port=port, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def me(url: str, platform: Platform) -> Owner:
    """The commands of a person with $10 and a ready dataset."""
    person, form = platform.ready()
    platform.project()
    dataset = form["dataset"]
    launch = ("jobs", "launch", "--dataset", dataset, "--base-model", form["base_model"])
    return Owner(url, person.key, platform, person, dataset, launch)


@pytest.fixture
def chats(tmp_path: Path) -> str:
    """Return the path of a file with one chat."""
    file = tmp_path / "chats.jsonl"
    file.write_text(CHAT)
    return str(file)


@pytest.fixture
def job(me: Owner, platform: Platform) -> PlatformJob:
    """A job with a registered model and a checkpoint."""
    job = me.start()
    job.train()
    job.register()
    platform.project()
    return job
