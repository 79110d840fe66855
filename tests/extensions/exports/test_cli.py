"""Exports and pushes to a hub on the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from uuid import UUID

import pytest

from domain.core.aggregate import because
from extensions.exports.domain.export import ExportFormat
from extensions.exports.domain.hub_push import HubPush
from extensions.exports.tables import set_export_progress, set_outcome, target_of
from gateway.cli import following
from gateway.cli.exits import ExitCode
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.builders.platform import Platform
from tests.builders.platform_job import PlatformJob
from tests.extensions.exports.exporting import WEIGHTS, complete_export, find_export
from tests.gateway.cli.conftest import Owner, meanwhile
from tests.localhub.server import WRITE_TOKEN, Hub, local_hub

FORMAT = ExportFormat.SAFETENSORS


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_SECONDS", 0.05)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with local_hub() as running:
        yield running


@pytest.fixture
def settings(settings: Settings, hub: Hub) -> Settings:
    """Settings of a platform with a hub."""
    return settings.model_copy(update={"hub_endpoint": hub.url})


def while_it_runs(me: Owner, path: str, end: Callable[[], object]) -> Thread:
    """End an export or a push while a command follows it."""

    def act() -> None:
        me.only(path)
        end()

    return meanwhile(act)


@pytest.mark.full
def test_an_export_is_followed_and_downloaded(
    me: Owner, platform: Platform, job: PlatformJob, tmp_path: Path
) -> None:
    model, files, out = job.job.model_name, tmp_path / "files", tmp_path / "out"
    files.mkdir()

    def end() -> None:
        with connect(platform.settings) as connection:
            set_export_progress(connection, find_export(platform, job.job_id, FORMAT).id, 1, 2)
        complete_export(platform, job.job_id, FORMAT, files)

    running = while_it_runs(me, f"/models/{model}/exports", end)
    me.run("models", "export", model, "--out", str(out))
    running.join()
    assert (out / "model.safetensors").read_bytes() == WEIGHTS
    assert "ready" in me.run("models", "exports", model)
    (listed,) = me.read("models", "exports", model)["data"]
    assert (listed["format"], listed["total_bytes"]) == (FORMAT, len(WEIGHTS))
    again = me.read("models", "export", model, "--no-download")
    assert again["id"] == listed["id"]
    deleted = me.read("models", "delete-export", model, FORMAT)
    assert deleted == {"model": model, "format": FORMAT, "deleted": True}
    assert "There are no exports." in me.run("models", "exports", model)
    assert "ecolink models exports" in me.refused("models", "delete-export", model, FORMAT, code=4)


def test_a_failed_export_prints_the_reason(me: Owner, platform: Platform, job: PlatformJob) -> None:
    model = job.job.model_name

    def end() -> None:
        with because(platform.cause):
            export = find_export(platform, job.job_id, FORMAT)
            export.fail("no_space", "The export needs 15 GiB.")
            platform.log.commit(export)

    running = while_it_runs(me, f"/models/{model}/exports", end)
    shown = me.run("models", "export", model, code=ExitCode.FAILED)
    running.join()
    assert "The export needs 15 GiB." in shown
    assert "advice" in shown
    assert "15 GiB" in me.run("models", "exports", model)


@pytest.fixture
def exported(me: Owner, platform: Platform, job: PlatformJob, tmp_path: Path) -> str:
    """The name of a model with a ready export."""
    me.run("models", "export", job.job.model_name, "--no-download")
    (tmp_path / "files").mkdir()
    complete_export(platform, job.job_id, FORMAT, tmp_path / "files")
    platform.project()
    return job.job.model_name


def end_push(platform: Platform, push_id: UUID, failure: str | None = None) -> None:
    """End a push as the exporter does."""
    with connect(platform.settings) as connection, because(platform.cause):
        push = platform.log.load(HubPush, push_id)
        if failure is None:
            set_outcome(connection, push_id, url="https://hub.example.com/commit/1")
            push.complete("4f" * 20)
        else:
            set_outcome(connection, push_id, message=failure)
            push.fail("forbidden")
        platform.log.commit(push)


def test_a_push_is_followed_until_it_is_committed(
    me: Owner, platform: Platform, exported: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    path = f"/models/{exported}/pushes"
    running = while_it_runs(me, path, lambda: end_push(platform, UUID(me.only(path)["id"])))
    pushed = me.read(*("models", "push", exported, "acme/bot", "--public", "--no-provenance"))
    running.join()
    assert (pushed["repository"], pushed["status"]) == ("acme/bot", "completed")
    assert (pushed["private"], pushed["provenance"]) == (False, False)
    assert pushed["url"] == "https://hub.example.com/commit/1"
    with connect(platform.settings) as connection:
        target = target_of(connection, UUID(pushed["id"]))
    assert target == ("acme/bot", False, False, WRITE_TOKEN)
    shown = me.run("models", "pushes", exported)
    assert "acme/bot" in shown
    assert WRITE_TOKEN not in shown


def test_a_failed_push_prints_the_reason(
    me: Owner, platform: Platform, exported: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    path = f"/models/{exported}/pushes"
    running = while_it_runs(
        me, path, lambda: end_push(platform, UUID(me.only(path)["id"]), "You may not write.")
    )
    asked = me.result(
        *("models", "push", exported, "acme/bot"), stdin="hf_typed\n", code=ExitCode.FAILED
    )
    running.join()
    assert "You may not write." in asked.stdout
    assert "hf_typed" not in asked.output
    assert "You may not write." in me.run("models", "pushes", exported)


@pytest.mark.full
def test_a_pending_push_is_stopped(
    me: Owner, exported: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    pushed = me.read("models", "push", exported, "acme/bot", "--no-follow")
    assert pushed["id"] in me.run("models", "pushes", exported)
    assert me.read("models", "stop-push", exported, pushed["id"])["status"] == "stopped"
    unknown = me.refused("models", "stop-push", exported, str(UUID(int=1)), code=4)
    assert "ecolink models pushes" in unknown


def test_a_push_without_an_export_is_refused(
    me: Owner, job: PlatformJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    refused = me.refused("models", "push", job.job.model_name, "acme/bot", code=4)
    assert "ecolink models export" in refused
