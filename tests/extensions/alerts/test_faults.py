"""Running processes with real faults: each alert fires once and resolves once."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from uuid import uuid4

import psutil
import psycopg
import pytest

from deploy.local import stack
from deploy.local.stack import up
from deploy.local.state import ChildState, ChildStatus
from deploy.processes import PROCESSES
from domain.core.aggregate import Cause, because
from infrastructure.bus.event_handlers import parked_events, request_replay
from infrastructure.postgres.store import connect, open_log
from infrastructure.settings import Settings
from tests.builders.history import History
from tests.extensions.alerts.process import only
from tests.extensions.alerts.webhook import Webhook
from tests.logs import grow
from tests.polling import eventually

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

RUN = ("relay", "sealer", "projector", "billing", "alerts")
WATCHED = ("balance-empty", "consumer-lag", "parked-event", "seal-broken", "process-down")
MIB = 1024**2
PATIENCE_SECONDS = 120.0


class Faults:
    """A running platform whose operator has one receiver."""

    def __init__(self, settings: Settings, ops: Webhook) -> None:
        self.settings, self.ops = settings, ops
        assert settings.owner_database_url is not None
        self.owner = psycopg.connect(settings.owner_database_url, autocommit=True)

    def child(self, name: str) -> ChildStatus:
        found = stack.state(self.settings.home)
        assert found is not None
        return next(child for child in found.children if child.runs(name))

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        process = psutil.Process(self.child(name).pid)
        process.suspend()
        yield
        process.resume()

    def kill_alerts(self) -> None:
        """Kill the alerts process, and wait until it runs again."""
        before = self.child("alerts")
        psutil.Process(before.pid).kill()
        eventually(lambda: self._runs_again(before), PATIENCE_SECONDS)

    def _runs_again(self, before: ChildStatus) -> bool:
        now = self.child("alerts")
        return now.state is ChildState.RUNNING and now.restarts > before.restarts

    def await_title(self, title: str) -> None:
        eventually(
            lambda: any(each.startswith(title) for each in self.ops.titles), PATIENCE_SECONDS
        )


@contextmanager
def command_now(command_id: str) -> Iterator[object]:
    """Run the block as one command of the present. Old events raise no alert."""
    with because(Cause("account:test", command_id, datetime.now(UTC))) as cause:
        yield cause


ALERTS_FILE = "ECOLINK_ALERTS_FILE"


def prompt(*rules: str, ops: Webhook) -> str:
    """Return a file with only these rules, which resolve soon."""
    text = only(*rules, receivers=f'ops = "{ops.url}"')
    return text.replace('for = "0s"', 'for = "0s"\nresolve_for = "2s"')


@pytest.fixture
def faults(home: Path, ops: Webhook, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    rules = (
        prompt(*WATCHED, ops=ops)
        .replace("[rules.consumer-lag]", '[rules.consumer-lag]\nparameters = { older_than = "2s" }')
        .replace(
            "[rules.process-down]",
            '[rules.process-down]\nparameters = { processes = ["projector"] }',
        )
    )
    file = home / "alerts.toml"
    file.write_text(rules)
    monkeypatch.setenv(ALERTS_FILE, str(file))
    settings = Settings(home=home, hung_seconds=600)
    with up(settings, {name: PROCESSES[name] for name in RUN}) as started:
        yield Faults(started.settings, ops)


def test_each_fault_of_a_running_platform_fires_once_and_resolves(faults: Faults) -> None:
    with open_log(faults.settings) as log:
        history = History(log, command=command_now)
        history.open_account(1_000_000)

        spender = history.another_job(uuid4())
        spender.open_account(1_000_000)
        with spender.changing_account() as account:
            account.settle(captured_micros=0, reserved_micros=1_000_000)
            account.settle(captured_micros=1_000_000, reserved_micros=0, second_micros=5)
        faults.await_title("[warning] Balance is empty")
        spender.top_up(1_000_000, "more")
        faults.await_title("[resolved] Balance is empty")

        with faults.stopped("relay"):
            grow(log, 10)
            faults.await_title("[critical] Consumer is behind")
            faults.kill_alerts()
        faults.await_title("[resolved] Consumer is behind")

        faults.owner.execute("REVOKE INSERT ON ecolink_events FROM ecolink_billing")
        history.open_pool()
        history.approve_job()
        history.allocate_segment(1)
        faults.await_title("[critical] Event is parked")
        faults.kill_alerts()
        faults.owner.execute("GRANT INSERT ON ecolink_events TO ecolink_billing")
        with connect(faults.settings) as connection:
            first = parked_events(connection)[0]
            request_replay(connection, first["consumer"], first["notification_id"])
        faults.await_title("[resolved] Event is parked")

        with faults.stopped("projector"):
            faults.await_title("[critical] Process is down")
        faults.await_title("[resolved] Process is down")

        where = "WHERE topic = 'JobApproved'"
        faults.owner.execute("SET session_replication_role = replica")
        faults.owner.execute(f"UPDATE ecolink_events SET state = state || '\\x20' {where}".encode())
        faults.await_title("[critical] Seal does not match")
        faults.kill_alerts()
        faults.owner.execute(
            "UPDATE ecolink_events SET state = substr(state, 1, length(state) - 1) "
            f"{where}".encode()
        )
        faults.await_title("[resolved] Seal does not match")
    assert set(Counter(faults.ops.titles).values()) == {1}
    assert len(faults.ops.titles) == 2 * len(WATCHED)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A home on a disk of 1 GiB, which any user can enter, as PostgreSQL needs."""
    folder = Path(mkdtemp(prefix="ecolink-"))
    folder.chmod(0o755)
    command = ["mount", "-t", "tmpfs", "-o", "size=1024m,mode=755", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.strip()}")
    home = folder / "home"
    home.mkdir()
    yield home
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def fill(file: Path, leave_bytes: int) -> None:
    """Use up the space of a disk but some."""
    with file.open("ab", buffering=0) as filler:
        while (left := shutil.disk_usage(file.parent).free - leave_bytes) > 0:
            try:
                filler.write(bytes(min(MIB, left)))
            except OSError:
                return


def test_a_disk_that_fills_up_fires_once_although_nothing_can_be_stored_for_a_while(
    small_disk: Path, ops: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = small_disk / "alerts.toml"
    file.write_text(prompt("disk-low", ops=ops))
    monkeypatch.setenv(ALERTS_FILE, str(file))
    settings = Settings(home=small_disk, disk_low_bytes="0.3GiB", disk_critical_bytes="0.1GiB")
    filler = small_disk / "filler"
    with up(settings, {name: PROCESSES[name] for name in ("relay", "alerts")}) as started:
        faults = Faults(started.settings, ops)
        fill(filler, 150 * MIB)
        faults.await_title("[warning] Disk space is low")
        for _ in range(50):  # what runs meets a full disk
            fill(filler, 0)
            time.sleep(0.2)
        filler.unlink()
        faults.await_title("[resolved] Disk space is low")
        eventually(lambda: faults.child("alerts").state is ChildState.RUNNING)
    assert len(ops.titles) == 2, ops.titles


def test_an_invalid_file_keeps_the_process_from_starting(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / "alerts.toml"
    file.write_text("[rules.disk-low]\nfor = 5\n")
    monkeypatch.setenv(ALERTS_FILE, str(file))
    with up(Settings(home=home), {"alerts": PROCESSES["alerts"]}) as started:
        log = started.settings.home / "logs" / "alerts.log"
        eventually(lambda: "rules.disk-low.for: 5: This is not a duration" in log.read_text())
        file.write_text("")
        eventually(lambda: "leading as alerts" in log.read_text(), PATIENCE_SECONDS)
