"""Disk alarms are logged and shown by `ecolink status` before the disk is full."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from deploy.local import disk_watch
from deploy.local.disk_watch import DiskWatch
from deploy.local.health import problems
from infrastructure.process.clock import SystemClock
from infrastructure.process.disk_space import DiskLevel, disk_space
from infrastructure.settings import Settings

MORE_THAN_ANY_DISK_BYTES = 10**18


@pytest.mark.parametrize(
    ("low", "critical", "level"),
    [
        (0, 0, DiskLevel.OK),
        (MORE_THAN_ANY_DISK_BYTES, 0, DiskLevel.LOW),
        (MORE_THAN_ANY_DISK_BYTES, MORE_THAN_ANY_DISK_BYTES, DiskLevel.CRITICAL),
    ],
)
def test_level_by_free_space(tmp_path: Path, low: int, critical: int, level: DiskLevel) -> None:
    settings = Settings(home=tmp_path, disk_low_bytes=low, disk_critical_bytes=critical)
    space = disk_space(settings)
    assert space.level is level
    assert 0 < space.free_bytes < space.total_bytes


def test_a_level_is_logged_on_change_and_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr("deploy.local.disk_watch.time.monotonic", lambda: now[0])
    watch = DiskWatch(Settings(home=tmp_path, disk_low_bytes=MORE_THAN_ANY_DISK_BYTES))
    with caplog.at_level(logging.INFO, "supervisor"):
        watch.look()
        watch.look()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        now[0] += disk_watch.REPEAT_SECONDS + 1
        watch.look()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "disk space is low" in caplog.messages[0]


def test_a_low_disk_is_a_problem(settings: Settings) -> None:
    low = settings.model_copy(update={"disk_low_bytes": MORE_THAN_ANY_DISK_BYTES})
    (problem,) = problems(low, ["relay"], SystemClock().now())
    assert str(low.home) in problem
