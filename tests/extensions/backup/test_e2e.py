"""A machine is lost: its backup goes to another home, where jobs and models continue."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.demo.account import demo_account
from deploy.local import stack
from gateway.cli.client import Endpoint, Refused
from infrastructure.postgres.store import open_log
from infrastructure.seals.archive import HEADS
from infrastructure.settings import Settings
from tests.deploy.operator.command_line import ecolink as command
from tests.e2e.test_deployments import answer, answers, status
from tests.polling import eventually
from tests.running import TIMEOUT_SECONDS, EcoLinkUnderTest, PatientClient, running_ecolink

pytestmark = [pytest.mark.full, pytest.mark.timeout(1500)]

JOB = {"epochs": 15, "gradient_accumulation": 1, "save_steps": 100_000, "seed": 7}


def settings_of(home: Path) -> Settings:
    return Settings(home=home, heartbeat_seconds=0.2, meter_minute_seconds=5)


@contextmanager
def restored(home: Path) -> Iterator[EcoLinkUnderTest]:
    """Run the EcoLink in a restored home."""
    with stack.up(settings_of(home)) as started:
        account, url = demo_account(started.settings), started.settings.gateway_url
        assert url is not None
        with PatientClient(Endpoint(url, account.key)) as client:
            yield EcoLinkUnderTest(started.settings, client, account)


def weights(ecolink: EcoLinkUnderTest, path: str) -> str:
    """Return the hash of a registered job's adapter."""
    ref = ecolink.client.get(path)["adapter_ref"]
    content = ecolink.artifacts.get(f"{ref}/adapter_model.safetensors")
    return hashlib.sha256(content).hexdigest()


def head(settings: Settings) -> int:
    with open_log(settings) as log:
        return log.recorder.max_notification_id() or 0


def test_a_restored_home_continues_bit_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    home, target, keys = tmp_path / "old", str(tmp_path / "backups"), str(tmp_path / "keys")
    home.mkdir()
    with running_ecolink(tmp_path, settings_of(home)) as ecolink:
        dataset = ecolink.dataset(tmp_path, examples=40)
        uninterrupted = ecolink.approve(dataset, **JOB)
        model = ecolink.await_end(uninterrupted)["model"]
        ecolink.client.post(f"/models/{model}/deploy", {})
        eventually(lambda: status(ecolink, model) == "active", TIMEOUT_SECONDS)
        expected, said = weights(ecolink, uninterrupted), answer(ecolink, model)
        before = head(ecolink.settings)

        job = ecolink.approve(dataset, **JOB)
        eventually(lambda: ecolink.client.get(job)["step"] > 0, TIMEOUT_SECONDS)
        ecolink.client.post(f"{job}/pause", {})
        paused = ecolink.await_status(job, "paused")
        assert 0 < paused["step"] < paused["total_steps"]
        eventually(lambda: ecolink.artifacts.list(HEADS))
        monkeypatch.setenv("ECOLINK_HOME", str(home))
        assert "is complete" in command("backup", "create", target, "--keys-to", keys)
        command("backup", "verify", target)
    shutil.rmtree(home)

    monkeypatch.setenv("ECOLINK_HOME", str(tmp_path / "new"))
    output = command("backup", "restore", target, "--keys", keys)
    assert "match their seals" in output
    assert "Missing" not in output
    with restored(tmp_path / "new") as ecolink:
        assert "Nothing differs" in command("audit", "verify", "--artifacts")
        eventually(lambda: answers(ecolink, model), TIMEOUT_SECONDS)  # once serving has loaded it
        assert answer(ecolink, model) == said
        resumed = ecolink.client.get(job)
        assert (resumed["status"], resumed["step"]) == ("paused", paused["step"])
        ecolink.client.post(f"{job}/resume", {})
        assert ecolink.await_end(job)["status"] == "registered"
        assert weights(ecolink, job) == expected
        assert "Nothing differs" in command("audit", "verify", "--artifacts")

    monkeypatch.setenv("ECOLINK_HOME", str(tmp_path / "past"))
    output = command("backup", "restore", target, "--keys", keys, "--until-event", str(before))
    assert f"up to event {before:,}" in output
    with restored(tmp_path / "past") as ecolink:
        with pytest.raises(Refused):
            ecolink.client.get(job)
        eventually(lambda: answers(ecolink, model), TIMEOUT_SECONDS)  # once serving has loaded it
        assert answer(ecolink, model) == said
        assert weights(ecolink, uninterrupted) == expected
        assert "Nothing differs" in command("audit", "verify", "--artifacts")
