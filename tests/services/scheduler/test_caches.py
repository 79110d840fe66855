"""Trimming of this machine's caches."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from infrastructure.artifacts import Artifacts
from infrastructure.disk_cache import GIB, MODELS
from infrastructure.settings import Settings
from services.scheduler.retention import trim_caches


def test_caches_are_trimmed_except_entries_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "retention")
    settings = Settings(home=tmp_path, cache_gib=150 / GIB, compiled_gib=150 / GIB)
    trim_caches(settings)
    assert caplog.messages == []

    remote = Artifacts("memory:///")
    for name in "ab":
        source = tmp_path / name
        source.mkdir()
        (source / "weights").write_bytes(name.encode() * 100)
        remote.put_directory(f"models/{name}", source)
    first, second = (
        remote.local_directory(f"models/{name}", settings.cache / MODELS) for name in "ab"
    )
    os.utime(first, (1000, 1000))
    remote.release_directory(second)
    for name in "cd":
        kernel = settings.compiled / f"{name}{name}" / (name * 52)
        kernel.parent.mkdir(parents=True)
        kernel.write_bytes(b"k" * 100)
    trim_caches(settings)
    assert list((settings.cache / MODELS).iterdir()) == [first]
    assert sum(path.is_file() for path in settings.compiled.rglob("*")) == 1
    deleted = [record.args[0] for record in caplog.records if isinstance(record.args, tuple)]
    assert deleted == [1, 1]
