"""Details of the embedded servers: users, ports, pods, logs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local import home as home_module
from deploy.local import ports, stack
from deploy.local import server_user as server_user_module
from deploy.local.errors import StackError
from deploy.local.home import Home
from deploy.local.pods import living_pods, stop_pods
from deploy.local.ports import RANGE, free_port
from deploy.local.postgres import PostgresServer
from deploy.local.server_user import NOBODY, ServerUser, server_user
from infrastructure.process.liveness import birth
from infrastructure.settings import Settings
from tests.polling import eventually

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")


@pytest.fixture
def no_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that refuses unprivileged user namespaces."""
    refusal = server_user_module._refusal

    def refuse(user: ServerUser, folder: Path, binary: Path) -> str | None:
        namespace = user.spec == "namespace"
        return "unshare: not permitted" if namespace else refusal(user, folder, binary)

    monkeypatch.setattr(server_user_module, "_refusal", refuse)


@as_root
@pytest.mark.full
@pytest.mark.usefixtures("no_namespaces")
def test_without_namespaces_postgres_runs_as_nobody(home: Path) -> None:
    place = Home(home)
    place.prepare()
    PostgresServer(place, 1, place.passwords()).initialize()
    assert place.postgres.stat().st_uid == NOBODY
    with stack.up(Settings(home=home), {}):  # without a refusal: the owner of the data runs it
        found = stack.state(home)
        assert found is not None
        postgres = next(child.process for child in found.children if child.name == "postgres")
        assert postgres is not None
        assert postgres.uids().effective == NOBODY


@as_root
@pytest.mark.usefixtures("no_namespaces")
def test_without_namespaces_existing_data_is_given_to_nobody(home: Path) -> None:
    place = Home(home)
    place.prepare()
    (place.postgres / "base").mkdir(parents=True)
    (place.postgres / "base" / "file").touch()
    PostgresServer(place, 1, place.passwords()).initialize()
    assert (place.postgres / "base" / "file").stat().st_uid == NOBODY


@as_root
@pytest.mark.usefixtures("no_namespaces")
def test_a_home_that_the_user_nobody_cannot_enter_is_refused(home: Path) -> None:
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    (closed / "home").mkdir()
    with pytest.raises(StackError, match="ECOLINK_HOME"):
        server_user(closed / "home" / "postgres", Path("/bin/true"))


def test_a_free_port_is_below_the_range_of_outgoing_connections() -> None:
    port = free_port()
    assert port < int(RANGE.read_text().split()[0])
    assert free_port(port) == port
    with socket.create_server(("127.0.0.1", port)):
        assert free_port(port) != port


def test_a_port_is_given_once_while_its_server_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that start servers at once once chose the same port."""
    port = free_port()
    monkeypatch.setattr(ports, "candidates", lambda: range(port, port + 1))
    with pytest.raises(OSError, match=f"no free port between {port} and {port}"):
        free_port()
    elsewhere = f"from deploy.local.ports import claim; print(claim('127.0.0.1', {port}))"
    answer = subprocess.run([sys.executable, "-c", elsewhere], capture_output=True, check=True)
    assert answer.stdout.strip() == b"False"
    for _ in range(2):  # a server that starts, and starts again with connections in TIME_WAIT
        with (
            socket.create_server(("127.0.0.1", port)) as server,
            socket.create_connection(("127.0.0.1", port)) as client,
        ):
            connection, _ = server.accept()
            connection.close()
            assert client.recv(1) == b""
    assert free_port(port) == port


def pod(home: Path, name: str, script: str) -> subprocess.Popen[str]:
    """A process recorded as a pod of the local launcher; returns once it listens."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    record = {"pid": process.pid, "born": birth(process.pid)}
    (home / "pods" / name).mkdir(parents=True)
    (home / "pods" / name / "pod.json").write_text(json.dumps(record | {"segment": 1}))
    return process


def test_pods_are_asked_to_stop_and_late_ones_are_killed(home: Path) -> None:
    Home(home).prepare()
    polite = pod(home, "polite", "trap 'exit 0' TERM; echo; while :; do sleep 0.05; done")
    deaf = pod(home, "deaf", "trap '' TERM; echo; while :; do sleep 0.05; done")
    assert len(living_pods(Home(home))) == 2
    assert stop_pods(Home(home), timeout=1.0) == 1
    assert living_pods(Home(home)) == []
    assert (polite.wait(), deaf.wait()) == (0, -signal.SIGKILL)


@pytest.mark.full
def test_a_clean_stop_stops_pods_but_no_other_process(home: Path) -> None:
    with stack.up(Settings(home=home, grace_seconds=1), {}):
        held = pod(home, "held", "trap 'exit 7' TERM; echo; while :; do sleep 0.05; done")
        stranger = pod(home, "stranger", "echo; exec sleep 100")
        record = {"pid": stranger.pid, "born": "00000000:1"}
        (home / "pods" / "stranger" / "pod.json").write_text(json.dumps(record))
        (home / "pods" / "unfinished").mkdir()
        (home / "pods" / "unfinished" / "pod.json").write_text('{"pid":')
    assert held.wait() == 7
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_large_logs_are_rotated_while_processes_write_to_them(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home_module, "LOG_BYTES", 4)
    place = Home(home)
    place.prepare()
    with place.log("relay").open("ab", buffering=0) as writer:
        for n in range(1, 6):
            writer.write(f"run {n}".encode())
            place.rotate_logs()
        writer.write(b"...")
    place.log("small").write_text("...")
    place.rotate_logs()
    kept = {path.name: path.read_text() for path in (home / "logs").iterdir()}
    assert kept.pop("supervisor.log") == ""
    assert kept == {
        "relay.log": "...",
        "relay.log.1": "run 5",
        "relay.log.2": "run 4",
        "relay.log.3": "run 3",
        "small.log": "...",
    }


def test_passwords_are_generated_once(home: Path) -> None:
    made = Home(home).passwords()
    assert Home(home).passwords() == made
    kept = made.model_dump(exclude={"serving"})
    (home / "secrets.json").write_text(json.dumps(kept))  # without a later secret
    grown = Home(home).passwords()
    assert grown.model_dump(exclude={"serving"}) == kept
    assert Home(home).passwords() == grown
    eventually((home / "secrets.json").exists)
