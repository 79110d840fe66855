"""A base with files that differ from its manifest is refused, and each file is hashed once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from domain.jobs.failures import FailureClass
from domain.jobs.lifecycle import SegmentEnd
from domain.training.phases import Phase
from services.trainer.base_files import BaseDamaged, BaseFiles
from services.trainer.failures import classify
from services.trainer.lease import SegmentStopped
from tests.services.trainer.segments import Trainer

WEIGHTS = "model.safetensors"


def damage(path: Path) -> None:
    """Change the last byte without changing size and mtime."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "base"))


@pytest.fixture
def verify(base: Path, trainer: Trainer, tmp_path: Path) -> Callable[..., int]:
    """Verify the base like a segment, and return the number of hashed chunks."""
    manifest = trainer.artifacts.manifest("models/tiny")

    def verify(check: Callable[[], object] = lambda: None) -> int:
        chunks: list[object] = []
        BaseFiles(base, manifest, tmp_path / "verified", lambda: chunks.append(check())).require()
        return len(chunks)

    return verify


def test_a_damaged_base_trains_nothing(trainer: Trainer) -> None:
    trainer.train()
    damage(trainer.folder / "artifacts/models/tiny" / WEIGHTS)
    spec = trainer.spec()
    with pytest.raises(BaseDamaged, match=WEIGHTS) as raised:
        trainer.run(spec)
    assert not trainer.artifacts.list(spec.checkpoint_prefix)
    assert classify(raised.value, Phase.DATASET_PREP) is FailureClass.MODEL_LOAD_FAILED


def test_files_are_hashed_once_until_they_change(base: Path, verify: Callable[..., int]) -> None:
    assert verify() == len(list(base.iterdir()))
    assert verify() == 0
    damage(base / WEIGHTS)
    for _ in range(2):  # damaged files are hashed each time
        with pytest.raises(BaseDamaged):
            verify()
    damage(base / WEIGHTS)  # a second change restores the content
    assert verify() > 0
    assert verify() == 0


@pytest.mark.parametrize("size", [None, 10])
def test_missing_files_and_wrong_sizes_are_found_before_hashing(
    base: Path, verify: Callable[..., int], monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    monkeypatch.setattr(BaseFiles, "_hash", lambda _: pytest.fail("it is read"))
    (base / WEIGHTS).unlink()
    if size is not None:
        (base / WEIGHTS).write_bytes(bytes(size))
    with pytest.raises(BaseDamaged, match=WEIGHTS):
        verify()


def test_the_end_of_the_lease_ends_the_verification(
    verify: Callable[..., int], tmp_path: Path
) -> None:
    def end() -> None:
        raise SegmentStopped(SegmentEnd.LEASE_ENDED)

    with pytest.raises(SegmentStopped):
        verify(end)
    assert not (tmp_path / "verified").exists()


def test_verification_succeeds_without_a_writable_cache(
    verify: Callable[..., int], tmp_path: Path
) -> None:
    (tmp_path / "verified").write_text("a file where the folder would be")
    assert verify() == verify() > 0
