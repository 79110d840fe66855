"""A warm trainer trains the same adapter as a cold one."""

from __future__ import annotations

import gc
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from domain.training.precision import Precision
from infrastructure.settings import Settings
from infrastructure.training.warm_start import (
    EXPECTED_BASE,
    READY,
    WARM_FLAG,
    ExpectedBase,
    WarmStart,
)
from services.trainer.processes import warm_base
from services.trainer.processes.warm import await_warm_start
from services.trainer.processes.warm_base import WarmBase, load_expected
from tests.polling import eventually
from tests.services.trainer.program import NatsServer
from tests.services.trainer.segments import Trainer

DROPPING = {"dropout": 0.1}  # draws from the random state, which must be as after a cold start


@pytest.fixture
def base(trainer: Trainer) -> ExpectedBase:
    sha256 = trainer.artifacts.manifest("models/tiny").sha256
    return ExpectedBase(ref="models/tiny", manifest_sha256=sha256, on_gpu=False)


def test_a_warm_base_gives_the_same_adapter(trainer: Trainer, base: ExpectedBase) -> None:
    cold, warm = (
        trainer.spec(DROPPING, base_manifest_sha256=base.manifest_sha256) for _ in range(2)
    )
    loaded = load_expected(trainer.artifacts, base)
    assert loaded is not None
    runs = trainer.run(cold), trainer.run(warm, warm_base=loaded)
    assert trainer.result(cold, runs[0]) == trainer.result(warm, runs[1])
    assert loaded._loaded is None, "it was used"


def test_a_base_is_taken_once_and_only_if_it_fits(tiny_model: Path) -> None:
    import torch

    fitting = (tiny_model, "a" * 64, torch.float32, Precision.BF16)
    others = (tiny_model / "other", "b" * 64, torch.bfloat16, Precision.NF4)
    for place, other in enumerate(others):
        base = WarmBase(*fitting[:3])
        assert base.take(*(*fitting[:place], other, *fitting[place + 1 :])) is None
        assert base.take(*fitting) is None
    base = WarmBase(*fitting[:3])
    assert base.take(*fitting) is not None
    assert base.take(*fitting) is None


@pytest.mark.parametrize("replaced", [False, True])
def test_a_base_whose_files_were_replaced_is_dropped(
    tiny_model: Path, tmp_path: Path, replaced: bool
) -> None:
    """The copy in memory may be damaged after the files were corrected."""
    import torch

    directory = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    base = WarmBase(directory, "a" * 64, torch.float32)
    if replaced:
        corrected = Path(shutil.copy2(directory / "model.safetensors", tmp_path))
        corrected.replace(directory / "model.safetensors")
    taken = base.take(directory, "a" * 64, torch.float32, Precision.BF16)
    assert (taken is None) is replaced


def test_a_base_that_changed_or_is_too_large_is_not_loaded(
    trainer: Trainer, base: ExpectedBase
) -> None:
    changed = base.model_copy(update={"manifest_sha256": "0" * 64})
    assert load_expected(trainer.artifacts, changed) is None
    trainer.patch.setattr(warm_base, "MEMORY_SHARE", 0.0)
    assert load_expected(trainer.artifacts, base) is None


def test_a_warm_trainer_does_not_touch_cuda(trainer: Trainer, base: ExpectedBase) -> None:
    import torch

    for name in ("is_available", "device_count", "is_bf16_supported", "init"):
        trainer.patch.setattr(torch.cuda, name, lambda *_, **__: pytest.fail("CUDA was used"))
    assert load_expected(trainer.artifacts, base.model_copy(update={"on_gpu": True})) is not None


@pytest.mark.full
@pytest.mark.parametrize("line", [b"", b'{"directory":'], ids=["nothing", "half a line"])
def test_a_warm_trainer_without_a_segment_exits(
    line: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line)))
    with pytest.raises(SystemExit) as ended:
        await_warm_start(tmp_path, Settings(home=tmp_path))
    gc.unfreeze()
    assert ended.value.code == 0
    assert (tmp_path / READY).exists()


@pytest.mark.full
def test_a_warm_trainer_counts_time_from_the_start_of_its_segment(
    trainer: Trainer, base: ExpectedBase, nats_server: NatsServer
) -> None:
    cold, warm = (
        trainer.spec(DROPPING, base_manifest_sha256=base.manifest_sha256) for _ in range(2)
    )
    pod, directory = trainer.folder / "pod", trainer.folder / "warm"
    pod.mkdir()
    directory.mkdir()
    (directory / EXPECTED_BASE).write_text(base.model_dump_json())
    (pod / "spec.json").write_text(warm.model_dump_json())
    environment = {
        "ECOLINK_NATS_URL": nats_server.url,
        "ECOLINK_ARTIFACTS_URL": trainer.url,
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "services.trainer", WARM_FLAG, str(directory)],
        stdin=subprocess.PIPE,
        env=os.environ | environment,
    )
    try:
        eventually((directory / READY).exists, timeout=300)
        assert process.stdin is not None
        at = time.monotonic()
        process.stdin.write(WarmStart(directory=pod, environment={}, handed_at=at).line)
        process.stdin.close()
        eventually(lambda: nats_server.final_reports(warm), timeout=300)
        most_seconds = time.monotonic() - at
        nats_server.answer(warm)
        assert process.wait(100) == 0
    finally:
        process.kill()
        process.wait()
    final = nats_server.reports(warm)[-1]
    assert final["ending"]["reason"] == "completed"
    assert final["elapsed_seconds"] <= most_seconds
    trainer.run(cold)
    assert trainer.adapter_sha256(warm) == trainer.adapter_sha256(cold)
