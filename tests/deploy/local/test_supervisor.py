"""The embedded stack as a whole: real servers, small services, and things that get killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest
from typer.testing import CliRunner

from deploy import cli
from deploy.local import stack
from deploy.local.errors import StackError
from deploy.local.state import ChildState, ChildStatus, StackState
from infrastructure.process.liveness import lives
from infrastructure.settings import Settings
from tests.deploy.local.fakes import CRASHING, STEADY, STUBBORN
from tests.polling import eventually

pytestmark = pytest.mark.timeout(300)

KEPT = "CREATE SCHEMA own; CREATE TABLE own.kept AS SELECT 42 AS answer"
"""A table outside the public schema, so that a migration needs no grant for it."""
READ_KEPT = "SELECT answer FROM own.kept"


def shown(home: Path) -> StackState:
    found = stack.state(home)
    assert found is not None
    return found


def child(home: Path, name: str) -> ChildStatus:
    return next(child for child in shown(home).children if child.name == name)


def restarted(home: Path, name: str, restarts: int = 1) -> Callable[[], bool]:
    def condition() -> bool:
        found = child(home, name)
        return found.restarts >= restarts and found.state is ChildState.RUNNING

    return condition


def processes(home: Path) -> list[psutil.Process]:
    """The supervisor and everything below it."""
    supervisor = psutil.Process(shown(home).pid)
    return [supervisor, *supervisor.children(recursive=True)]


def nothing_lives(of: list[psutil.Process]) -> bool:
    return not any(lives(process) for process in of)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def execute(url: str | None, statement: str) -> list[tuple[object, ...]]:
    assert url is not None
    with psycopg.connect(url) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


@pytest.mark.full
def test_stored_files_are_private_whatever_the_homes_mode(home: Path) -> None:
    for name in ("artifacts", "logs"):
        (home / name).mkdir(mode=0o755)
    home.chmod(0o755)
    with stack.up(Settings(home=home), {"steady": STEADY}):
        kept = [path for path in home.iterdir() if path.name != "postgres"]
        assert {path.name for path in kept} >= {"artifacts", "cache", "compiled", "logs", "pods"}
        for path in kept:
            assert path.stat().st_mode & 0o077 == 0, path
        for path in (*(home / "logs").iterdir(), *(home / "run").iterdir()):
            assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.full
def test_a_stack_runs_servers_and_services_and_leaves_no_process(home: Path) -> None:
    with stack.up(Settings(home=home), {"one": STEADY, "two": STEADY}) as started:
        settings = started.settings
        assert [c.name for c in shown(home).children] == ["postgres", "nats", "one", "two"]
        assert {c.state for c in shown(home).children} == {ChildState.RUNNING}
        assert stack.running(home) == settings
        assert execute(settings.database_url, "SELECT 1") == [(1,)]
        for secret in ("secrets.json", "run/stack.json", "run/nats.conf", "run/relay.creds"):
            assert (home / secret).stat().st_mode & 0o777 == 0o600
        all_processes = processes(home)
        ports = [settings.postgres_port, settings.nats_port]
        assert all(listens(port) for port in ports)
    assert nothing_lives(all_processes)
    assert not any(listens(port) for port in ports)
    assert stack.state(home) is None


@pytest.mark.full
def test_a_service_gets_every_url_but_not_the_owners(home: Path) -> None:
    with stack.up(Settings(home=home), {"one": STEADY}):
        path = home / "steady.env"
        names = eventually(lambda: path.read_text().split() if path.exists() else [])
    expected = {"HOME", "DATABASE_URL", "NATS_URL", "NATS_CREDENTIALS", "ARTIFACTS_URL"}
    assert {f"ECOLINK_{name}" for name in expected | {"SUPERVISOR_PID"}} <= set(names)
    assert not {"ECOLINK_OWNER_DATABASE_URL", "ECOLINK_NATS_TRAINER_SEED"} & set(names)


@pytest.mark.full
def test_a_killed_child_is_restarted_and_the_others_keep_running(home: Path) -> None:
    with stack.up(Settings(home=home), {"one": STEADY}) as started:
        settings = started.settings
        execute(settings.owner_database_url, KEPT)
        for name in ("one", "nats", "postgres"):
            killed = child(home, name).process
            assert killed is not None
            killed.kill()
            eventually(restarted(home, name))
            assert child(home, name).pid != killed.pid
        assert execute(settings.owner_database_url, READ_KEPT) == [(42,)]
        assert listens(settings.nats_port)
        assert [c.restarts for c in shown(home).children] == [1, 1, 1]


@pytest.mark.full
def test_postgres_recovers_although_a_busy_backend_outlived_it(home: Path) -> None:
    with stack.up(Settings(home=home), {}) as started:
        assert started.settings.owner_database_url is not None
        busy = psycopg.connect(started.settings.owner_database_url)
        busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 10000000000)")
        backend = psutil.Process(busy.info.backend_pid)
        postmaster = child(home, "postgres").process
        assert postmaster is not None
        postmaster.kill()
        eventually(restarted(home, "postgres"))
        assert not lives(backend)
        busy.close()


@pytest.mark.full
def test_postgres_starts_despite_a_stale_lock_file_with_a_reused_pid(home: Path) -> None:
    with stack.up(Settings(home=home), {}):
        content = (home / "postgres" / "postmaster.pid").read_text()
    stranger = subprocess.Popen(["sleep", "100"])
    try:
        lines = [str(stranger.pid), *content.splitlines()[1:], ""]
        (home / "postgres" / "postmaster.pid").write_text("\n".join(lines))
        with stack.up(Settings(home=home), {}):
            assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.full
def test_a_crashing_service_is_restarted_with_growing_pauses(home: Path) -> None:
    with stack.up(Settings(home=home), {"one": STEADY, "bad": CRASHING}):
        eventually(lambda: child(home, "bad").restarts >= 2)
        assert child(home, "one").restarts == 0
        assert (
            "RuntimeError: this service always crashes" in (home / "logs" / "bad.log").read_text()
        )


@pytest.mark.full
def test_all_processes_end_with_a_killed_supervisor_and_the_next_start_recovers(
    home: Path,
) -> None:
    with stack.up(Settings(home=home), {"one": STEADY, "deaf": STUBBORN}) as started:
        settings = started.settings
        execute(settings.owner_database_url, KEPT)
        all_processes = processes(home)
        all_processes[0].kill()
        assert started.supervisor.wait() == -signal.SIGKILL
    eventually(lambda: nothing_lives(all_processes))
    assert stack.state(home) is None
    with stack.up(Settings(home=home), {"one": STEADY}) as started:
        assert started.settings.postgres_port == settings.postgres_port
        assert execute(started.settings.owner_database_url, READ_KEPT) == [(42,)]


@pytest.mark.full
def test_a_stack_ends_with_the_process_that_started_it(home: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from deploy.local import stack; "
        "from infrastructure.settings import Settings\n"
        f"with stack.up(Settings(home=Path(sys.argv[1])), {{'one': {STEADY!r}}}) as own:\n"
        "    own.supervisor.wait()"
    )
    starter = subprocess.Popen([sys.executable, "-c", script, str(home)])
    eventually(lambda: stack.running(home), timeout=60)
    all_processes = processes(home)
    starter.kill()
    starter.wait()
    eventually(lambda: nothing_lives(all_processes), timeout=60)
    assert "stopped" in (home / "logs" / "supervisor.log").read_text()


@pytest.mark.full
def test_a_second_supervisor_on_one_home_is_refused(home: Path) -> None:
    with stack.up(Settings(home=home), {}) as started:
        with pytest.raises(StackError, match="ecolink down"):
            with stack.up(Settings(home=home), {}):
                pytest.fail("it started")
        assert stack.running(home) == started.settings


@pytest.mark.full
def test_a_failed_start_reports_the_reason_and_leaves_no_process(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=r"(?s)postgres.*in use"):
            with stack.up(Settings(home=home, postgres_port=port), {}):
                pytest.fail("it started")
    assert stack.state(home) is None


@pytest.mark.full
def test_a_command_joins_the_running_stack_or_starts_its_own(home: Path) -> None:
    with stack.stack(Settings(home=home), {}) as own:
        pid = shown(home).pid
        with stack.stack(Settings(home=home), {}) as joined:
            assert joined == own
        assert shown(home).pid == pid
        with pytest.raises(StackError, match="one"):
            with stack.stack(Settings(home=home), {"one": STEADY}):
                pytest.fail("it was joined")
    assert stack.state(home) is None


@pytest.mark.full
def test_configured_servers_are_not_embedded(servers: Settings, home: Path) -> None:
    configured = servers.model_copy(update={"home": home})
    with stack.up(configured, {"one": STEADY}) as started:
        assert [c.name for c in shown(home).children] == ["one"]
        assert started.settings.database_url == servers.database_url
        assert started.settings.nats_url == servers.nats_url
    with stack.stack(configured, {}) as settings:
        assert settings == configured
        assert stack.state(home) is None


def test_a_command_that_only_reads_a_configured_database_starts_nothing(
    servers: Settings, home: Path
) -> None:
    configured = servers.model_copy(update={"home": home, "nats_url": None})
    with stack.database(configured) as settings:
        assert settings == configured
        assert stack.state(home) is None
    assert not (home / "secrets.json").exists()


@pytest.mark.full
def test_such_a_command_uses_the_settings_of_a_running_stack(servers: Settings, home: Path) -> None:
    with stack.up(servers.model_copy(update={"home": home}), {}) as started:
        with stack.database(Settings(home=home, database_url=servers.database_url)) as settings:
            assert settings == started.settings
        with stack.database(Settings(home=home, database_url=None)) as settings:
            assert settings == started.settings
        other = Settings(home=home, database_url="postgresql://elsewhere")
        with stack.database(other) as settings:
            assert settings == other


@pytest.mark.full
def test_status_and_down(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOLINK_HOME", str(home))
    command = CliRunner()
    assert command.invoke(cli.main, ["status"]).exit_code == 1
    with stack.up(Settings(), {"one": STEADY}) as started:
        result = command.invoke(cli.main, ["status"])
        assert result.exit_code == 0
        for word in ("supervisor", "postgres", "nats", "one", "running"):
            assert word in result.output
        assert command.invoke(cli.main, ["down"]).exit_code == 0
        assert started.supervisor.wait() == 0
    assert command.invoke(cli.main, ["down"]).exit_code == 0


UP = (
    "from deploy import cli, processes\n"
    f"processes.PROCESSES.clear(); processes.PROCESSES['one'] = {STEADY!r}\n"
    "cli.main(['up', '--no-demo'])"
)


def await_announcement(command: subprocess.Popen[str]) -> None:
    """Read the output of `ecolink up` until the announcement is complete."""
    assert command.stdout is not None
    assert any("Ctrl-C" in line for line in command.stdout)


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_runs_until_interrupted(home: Path, number: signal.Signals) -> None:
    command = subprocess.Popen(
        [sys.executable, "-c", UP],
        env=os.environ | {"ECOLINK_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
    )
    await_announcement(command)
    all_processes = processes(home)
    command.send_signal(number)
    command.communicate()
    assert command.returncode == 0
    assert nothing_lives(all_processes)


@pytest.mark.full
def test_an_interrupt_of_make_alone_stops_the_stack(home: Path, tmp_path: Path) -> None:
    (tmp_path / "up.py").write_text(UP)
    (tmp_path / "Makefile").write_text(f"up:\n\t@{sys.executable} up.py\n")
    command = subprocess.Popen(
        ["make", "-C", str(tmp_path), "up"],
        env=os.environ
        | {"ECOLINK_HOME": str(home), "PYTHONPATH": str(Path(cli.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
        # Make ignores a signal that was ignored when it started.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    await_announcement(command)
    all_processes = [*psutil.Process(command.pid).children(), *processes(home)]
    command.send_signal(signal.SIGINT)
    command.communicate()
    assert nothing_lives(all_processes)


@pytest.mark.full
def test_up_fails_when_its_supervisor_is_killed(home: Path) -> None:
    command = subprocess.Popen(
        [sys.executable, "-c", UP],
        env=os.environ | {"ECOLINK_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
    )
    await_announcement(command)
    all_processes = processes(home)
    all_processes[0].kill()
    output, _ = command.communicate()
    assert command.returncode == 1
    assert "logs" in output
    eventually(lambda: nothing_lives(all_processes))
