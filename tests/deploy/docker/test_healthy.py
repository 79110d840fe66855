"""The health check of a container."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from deploy.docker.healthy import MAX_AGE_SECONDS, answers, beats
from deploy.local.ports import free_port


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    class Answer(BaseHTTPRequestHandler):
        status = 200

        def do_GET(self) -> None:
            self.send_response(self.status if self.path == "/healthz" else 500)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Write nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_process_that_beats_is_healthy(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    assert not beats(str(beat), time.time())
    beat.touch()
    assert beats(str(beat), beat.stat().st_mtime + MAX_AGE_SECONDS - 1)
    assert not beats(str(beat), beat.stat().st_mtime + MAX_AGE_SECONDS)


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (404, True), (503, False)])
def test_a_listener_must_answer(server: HTTPServer, status: int, healthy: bool) -> None:
    server.RequestHandlerClass.status = status  # type: ignore[attr-defined]
    assert answers(server.server_port) is healthy


def test_a_port_without_a_listener_is_not_healthy() -> None:
    assert not answers(free_port())


@pytest.mark.parametrize(
    ("file", "arguments", "healthy"),
    [
        ("beat", [], True),
        ("beat", ["--alive"], True),
        ("beat.waiting", [], False),
        ("beat.waiting", ["--alive"], True),
        (None, [], False),
        (None, ["--alive"], False),
    ],
)
def test_the_exit_status_tells_the_engine(
    tmp_path: Path, file: str | None, arguments: list[str], healthy: bool
) -> None:
    """A process that waits for its migration is alive, but not ready."""
    beat = tmp_path / "beat"
    if file is not None:
        (tmp_path / file).touch()
    ran = subprocess.run(
        [sys.executable, "-m", "deploy.docker.healthy", *arguments],
        env=os.environ | {"ECOLINK_BEAT_FILE": str(beat)},
        check=False,
    )
    assert ran.returncode == (0 if healthy else 1)


def test_it_imports_nothing_of_ecolink() -> None:
    program = "import sys, deploy.docker.healthy; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    own = {each for each in loaded if each.startswith(("deploy", "infrastructure", "domain"))}
    assert own == {"deploy", "deploy.docker", "deploy.docker.healthy"}
    assert "pydantic" not in loaded
