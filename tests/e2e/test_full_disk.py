"""A full disk stops what must be stored, and everything goes on without a hand once it has room.

The home is on a tmpfs of its own, which only root may mount. Without root, run this module in a
user namespace: `unshare --user --map-root-user --mount pytest tests/e2e/test_full_disk.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from deploy import cli
from deploy.local import stack
from infrastructure.settings import Settings
from services.projector.audit import audit
from tests.conftest import CI
from tests.polling import eventually
from tests.running import TIMEOUT_SECONDS, EcoLinkUnderTest, running_ecolink

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]

DISK_MIB = 1024
MIB = 1024**2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that is a disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=755", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        assert not (CI in os.environ and os.geteuid() == 0), mounted.stderr
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def cramped(small_disk: Path, tmp_path: Path) -> Iterator[EcoLinkUnderTest]:
    """A stack whose home is on the small disk."""
    home = small_disk / "home"
    home.mkdir()
    settings = Settings(
        home=home,
        heartbeat_seconds=0.2,
        meter_minute_seconds=5,
        disk_low_bytes="0.2GiB",
        disk_critical_bytes="0.1GiB",
        test_payments=True,
    )
    with running_ecolink(tmp_path, settings) as under_test:
        yield under_test


def fill(disk: Path, leave_bytes: int = 0) -> Path:
    """Use up all space but some; returns the file to delete."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        while (left := shutil.disk_usage(disk).free - leave_bytes) > 0:
            try:
                file.write(bytes(min(MIB, left)))
            except OSError:
                break
    return filler


def health(ecolink: EcoLinkUnderTest) -> dict[str, str]:
    return httpx.get(f"{ecolink.settings.gateway_url}/healthz", timeout=10).json()


def nats_restarts(ecolink: EcoLinkUnderTest) -> int:
    found = stack.state(ecolink.settings.home)
    assert found is not None
    return next(child.restarts for child in found.children if child.name == "nats")


def supervisor_log(ecolink: EcoLinkUnderTest) -> str:
    return (ecolink.settings.home / "logs" / "supervisor.log").read_text()


def test_a_job_goes_on_by_itself_after_the_disk_was_full(
    cramped: EcoLinkUnderTest, small_disk: Path, tmp_path: Path
) -> None:
    ecolink = cramped
    dataset = ecolink.dataset(tmp_path, examples=100)
    path = ecolink.approve(dataset, epochs=40, gradient_accumulation=1, save_steps=100)
    ecolink.await_events(path, "CheckpointSaved", 1)
    assert health(ecolink)["disk"] == "ok"

    filler = fill(small_disk, leave_bytes=80 * MIB)  # an alarm before it is full
    eventually(lambda: "disk space is critical" in supervisor_log(ecolink))
    assert health(ecolink)["disk"] == "critical"
    environment = {"ECOLINK_HOME": str(ecolink.settings.home)}
    shown = CliRunner().invoke(cli.main, ["status"], env=environment)
    assert shown.exit_code == 1
    assert "Disk space is critical" in shown.output
    refused = httpx.post(
        f"{ecolink.settings.gateway_url}/api/datasets",
        params={"name": "more"},
        headers={"authorization": f"Bearer {ecolink.key}"},
        content=b"{}",
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_disk_space")

    restarts = nats_restarts(ecolink)
    fill(small_disk)
    for _ in range(100):  # what runs meets it, and what it deletes is used up again
        fill(small_disk)
        time.sleep(0.2)
    filler.unlink()

    eventually(lambda: health(ecolink)["disk"] == "ok")
    eventually(lambda: nats_restarts(ecolink) > restarts, TIMEOUT_SECONDS)
    assert "cannot store messages" in supervisor_log(ecolink)
    job = ecolink.await_end(path)
    assert job["status"] == "registered"
    assert audit(ecolink.settings).differences == []
    another = ecolink.approve(dataset, epochs=1)
    assert ecolink.await_end(another)["status"] == "registered"
