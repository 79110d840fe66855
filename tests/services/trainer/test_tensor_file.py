"""A tensor file is a safetensors file, byte for byte."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save

from infrastructure.artifacts.store import Artifacts
from services.trainer.tensor_file import TensorFile

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).view(2, 3).t(),
    "a": torch.tensor(7, dtype=torch.uint8),
    "c": torch.ones(3, dtype=torch.bfloat16),
    "d": torch.tensor(1.5),
}


def test_the_file_equals_that_of_safetensors(tmp_path: Path) -> None:
    packed = TensorFile.of(TENSORS, {"format": "pt"})
    packed.write(tmp_path / "x")
    theirs = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    assert (tmp_path / "x").read_bytes() == save(theirs, {"format": "pt"})


def test_a_file_round_trips_with_its_hash(tmp_path: Path) -> None:
    packed = TensorFile.of(TENSORS, {"groups": "[]"})
    directory = tmp_path / "new"
    directory.mkdir()
    packed.write(directory / "x")
    again = TensorFile.read(directory / "x")
    assert (again.sha256, again.metadata) == (packed.sha256, {"groups": "[]"})
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in TENSORS.items())
    artifacts = Artifacts((tmp_path / "store").as_uri())
    manifest = artifacts.take_directory("kept", directory, {"x": packed.sha256})
    assert not directory.exists()
    assert artifacts.get_directory("kept", tmp_path / "fetched") == manifest
    assert manifest == artifacts.put_directory("again", tmp_path / "fetched")


def test_an_empty_tensor_file_is_valid(tmp_path: Path) -> None:
    TensorFile.of({}, {}).write(tmp_path / "x")
    assert TensorFile.read(tmp_path / "x").tensors == {}


def test_a_copy_is_not_changed_by_training() -> None:
    tensor = torch.zeros(3)
    packed = TensorFile.of({"a": tensor}, {})
    tensor += 1
    assert packed.tensors["a"].tolist() == [0, 0, 0]
