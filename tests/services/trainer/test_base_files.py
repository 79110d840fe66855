"""A base whose files are not those of its manifest trains nothing, and each is hashed once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from domain.jobs.failures import FailureClass
from domain.training.phases import Phase
from infrastructure.artifacts import Artifacts, Manifest
from infrastructure.reports import Outcome
from services.trainer.base_files import BaseDamaged, BaseFiles
from services.trainer.failures import classify
from services.trainer.lease import SegmentStopped
from tests.services.trainer.conftest import SpecMaker

WEIGHTS = "model.safetensors"


def damage(path: Path) -> None:
    """Change the last byte, and nothing that anyone would see in a list of files."""
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
    """Does it as a segment does; returns how many pieces were hashed."""

    def verify() -> int:
        pieces: list[None] = []
        BaseFiles(base, manifest, tmp_path / "verified", lambda: pieces.append(None)).require()
        return len(pieces)

    return verify


def test_weights_that_were_damaged_in_place_train_nothing(
    run, make_spec: SpecMaker, artifacts: Artifacts
) -> None:
    assert artifacts.root is not None
    run(make_spec())
    damage(artifacts.root / "models/tiny" / WEIGHTS)
    spec = make_spec()
    with pytest.raises(BaseDamaged, match=f"{WEIGHTS} differs from its manifest") as raised:
        run(spec)
    assert not artifacts.list(spec.checkpoint_prefix)
    assert classify(raised.value, Phase.DATASET_PREP) is FailureClass.MODEL_LOAD_FAILED


def test_files_are_hashed_once_and_again_when_they_were_touched(base: Path, verify) -> None:
    assert verify() == len(list(base.iterdir()))
    assert verify() == 0
    damage(base / WEIGHTS)
    for _ in range(2):  # what is damaged is not remembered
        with pytest.raises(BaseDamaged):
            verify()
    damage(base / WEIGHTS)  # and so mended
    assert verify() > 0
    assert verify() == 0


@pytest.mark.parametrize("size", [None, 10])
def test_a_missing_file_and_one_of_another_size_are_found_before_anything_is_read(
    base: Path, verify, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    monkeypatch.setattr(BaseFiles, "_hash", lambda _: pytest.fail("it is read"))
    path = base / WEIGHTS
    path.unlink()
    if size is not None:
        path.write_bytes(bytes(size))
    with pytest.raises(BaseDamaged, match=f"{WEIGHTS} (is missing|has 10 bytes, not)"):
        verify()


def test_a_lease_that_ends_ends_it(base: Path, manifest: Manifest, tmp_path: Path) -> None:
    def ended() -> None:
        raise SegmentStopped(Outcome.LEASE_ENDED)

    verified = tmp_path / "verified"
    with pytest.raises(SegmentStopped):
        BaseFiles(base, manifest, verified, ended).require()
    assert not verified.exists()


def test_what_cannot_be_remembered_is_found_good_all_the_same(verify, tmp_path: Path) -> None:
    (tmp_path / "verified").write_text("a file where the folder would be")
    assert verify() == verify() > 0
