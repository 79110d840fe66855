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
from infrastructure.artifacts import Artifacts
from infrastructure.reports import SegmentSpec
from infrastructure.settings import Settings
from infrastructure.warm_start import EXPECTED_BASE, READY, WARM_FLAG, ExpectedBase, WarmStart
from services.trainer.processes import warm_base
from services.trainer.processes.warm import await_warm_start
from services.trainer.processes.warm_base import WarmBase, load_expected
from tests.polling import eventually
from tests.services.trainer.conftest import SpecMaker
from tests.services.trainer.nats_server import NatsServer
from tests.services.trainer.program import answer, reports

DROPPING = {"dropout": 0.1}  # draws from the random state, which must be as after a cold start


def adapter_sha256(artifacts: Artifacts, spec: SegmentSpec) -> str:
    files = artifacts.manifest(spec.adapter_prefix).files
    return next(file.sha256 for file in files if file.path == "adapter_model.safetensors")


@pytest.fixture
def manifest_sha256(artifacts: Artifacts) -> str:
    return artifacts.manifest("models/tiny").sha256


@pytest.fixture
def base(manifest_sha256: str) -> ExpectedBase:
    return ExpectedBase(ref="models/tiny", manifest_sha256=manifest_sha256, on_gpu=False)


def test_a_warm_base_gives_the_same_adapter(
    run, make_spec: SpecMaker, artifacts: Artifacts, base: ExpectedBase
) -> None:
    cold, warm = (make_spec(DROPPING, base_manifest_sha256=base.manifest_sha256) for _ in range(2))
    run(cold)
    loaded = load_expected(artifacts, base)
    assert loaded is not None
    run(warm, warm_base=loaded)
    assert adapter_sha256(artifacts, warm) == adapter_sha256(artifacts, cold)
    assert loaded._loaded is None, "it was used"


def test_a_base_that_does_not_fit_is_dropped(tiny_model: Path) -> None:
    import torch

    def held() -> WarmBase:
        return WarmBase(tiny_model, "a" * 64, torch.float32)

    fitting = (tiny_model, "a" * 64, torch.float32, Precision.BF16)
    others = (tiny_model / "other", "b" * 64, torch.bfloat16, Precision.NF4)
    for place, other in enumerate(others):
        base = held()
        assert base.take(*(*fitting[:place], other, *fitting[place + 1 :])) is None
        assert base.take(*fitting) is None, "it is held no longer"
    base = held()
    assert base.take(*fitting) is not None
    assert base.take(*fitting) is None, "two segments share no base"


def test_a_base_whose_files_were_replaced_is_dropped(tiny_model: Path, tmp_path: Path) -> None:
    """The copy in memory may be damaged after the files were corrected."""
    import torch

    directory = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    for again in (False, True):
        base = WarmBase(directory, "a" * 64, torch.float32)
        if again:
            corrected = Path(shutil.copy2(directory / "model.safetensors", tmp_path))
            corrected.replace(directory / "model.safetensors")
        taken = base.take(directory, "a" * 64, torch.float32, Precision.BF16)
        assert (taken is None) is again


def test_a_base_that_changed_or_is_too_large_is_not_loaded(
    artifacts: Artifacts, base: ExpectedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_expected(artifacts, base.model_copy(update={"manifest_sha256": "0" * 64})) is None
    monkeypatch.setattr(warm_base, "MEMORY_SHARE", 0.0)
    assert load_expected(artifacts, base) is None


def test_a_warm_trainer_does_not_touch_cuda(
    artifacts: Artifacts, base: ExpectedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    for name in ("is_available", "device_count", "is_bf16_supported", "init"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: pytest.fail("CUDA was asked"))
    assert load_expected(artifacts, base.model_copy(update={"on_gpu": True})) is not None


@pytest.mark.parametrize("said", [b"", b'{"directory":'], ids=["nothing", "half a line"])
def test_a_warm_trainer_without_a_segment_exits(
    said: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(said)))
    with pytest.raises(SystemExit) as ended:
        await_warm_start(tmp_path, Settings(home=tmp_path))
    gc.unfreeze()
    assert ended.value.code == 0
    assert (tmp_path / READY).exists()


@pytest.mark.full
def test_a_warm_trainer_counts_time_from_the_start_of_its_segment(
    run,
    make_spec: SpecMaker,
    artifacts: Artifacts,
    base: ExpectedBase,
    nats_server: NatsServer,
    tmp_path: Path,
) -> None:
    cold, handed = (
        make_spec(DROPPING, base_manifest_sha256=base.manifest_sha256) for _ in range(2)
    )
    pod, directory = tmp_path / "pod", tmp_path / "warm"
    pod.mkdir()
    directory.mkdir()
    (directory / EXPECTED_BASE).write_text(base.model_dump_json())
    (pod / "spec.json").write_text(handed.model_dump_json())
    trainer = subprocess.Popen(
        [sys.executable, "-m", "services.trainer", WARM_FLAG, str(directory)],
        stdin=subprocess.PIPE,
        env=os.environ
        | {
            "ECOLINK_NATS_URL": nats_server.url,
            "ECOLINK_ARTIFACTS_URL": (tmp_path / "artifacts").as_uri(),
            "OMP_NUM_THREADS": "1",
        },
    )
    try:
        eventually((directory / READY).exists, timeout=100)
        assert trainer.stdin is not None
        at = time.monotonic()
        trainer.stdin.write(WarmStart(directory=pod, environment={"TOLD": "so"}, handed_at=at).line)
        trainer.stdin.close()
        log = pod / "trainer.log"
        eventually(lambda: log.exists() and "outcome=completed" in log.read_text(), timeout=100)
        ran_at_most = time.monotonic() - at
        answer(nats_server, handed)
        assert trainer.wait(100) == 0
    finally:
        trainer.kill()
        trainer.wait()
    run(cold)
    assert adapter_sha256(artifacts, handed) == adapter_sha256(artifacts, cold)
    assert reports(nats_server, handed)[-1]["elapsed_seconds"] <= ran_at_most
