"""A base with files that differ from its manifest is refused, and each file is hashed once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from domain.jobs.failures import FailureClass
from domain.jobs.lifecycle import SegmentEnd
from domain.training.phases import Phase
from infrastructure.artifacts import Artifacts, Manifest
from services.trainer.base_files import BaseDamaged, BaseFiles
from services.trainer.failures import classify
from services.trainer.lease import SegmentStopped
from tests.services.trainer.conftest import SpecMaker

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
def manifest(artifacts: Artifacts) -> Manifest:
    return artifacts.manifest("models/tiny")


@pytest.fixture
def verify(base: Path, manifest: Manifest, tmp_path: Path):
    """Verify like a segment; return the number of hashed chunks."""

    def verify() -> int:
        pieces: list[None] = []
        BaseFiles(base, manifest, tmp_path / "verified", lambda: pieces.append(None)).require()
        return len(pieces)

    return verify


def test_damaged_weights_train_nothing(run, make_spec: SpecMaker, artifacts: Artifacts) -> None:
    assert artifacts.root is not None
    run(make_spec())
    damage(artifacts.root / "models/tiny" / WEIGHTS)
    spec = make_spec()
    with pytest.raises(BaseDamaged, match=WEIGHTS) as raised:
        run(spec)
    assert not artifacts.list(spec.checkpoint_prefix)
    assert classify(raised.value, Phase.DATASET_PREP) is FailureClass.MODEL_LOAD_FAILED


def test_files_are_hashed_once_until_they_change(base: Path, verify) -> None:
    assert verify() == len(list(base.iterdir()))
    assert verify() == 0
    damage(base / WEIGHTS)
    for _ in range(2):  # what is damaged is not remembered
        with pytest.raises(BaseDamaged):
            verify()
    damage(base / WEIGHTS)  # twice is undone
    assert verify() > 0
    assert verify() == 0


@pytest.mark.parametrize("size", [None, 10])
def test_missing_files_and_wrong_sizes_are_found_before_hashing(
    base: Path, verify, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    monkeypatch.setattr(BaseFiles, "_hash", lambda _: pytest.fail("it is read"))
    path = base / WEIGHTS
    path.unlink()
    if size is not None:
        path.write_bytes(bytes(size))
    with pytest.raises(BaseDamaged, match=WEIGHTS):
        verify()


def test_the_end_of_the_lease_ends_the_segment(
    base: Path, manifest: Manifest, tmp_path: Path
) -> None:
    def ended() -> None:
        raise SegmentStopped(SegmentEnd.LEASE_ENDED)

    verified = tmp_path / "verified"
    with pytest.raises(SegmentStopped):
        BaseFiles(base, manifest, verified, ended).require()
    assert not verified.exists()


def test_verification_succeeds_without_a_writable_cache(verify, tmp_path: Path) -> None:
    (tmp_path / "verified").write_text("a file where the folder would be")
    assert verify() == verify() > 0
