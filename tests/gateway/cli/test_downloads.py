"""Downloads on the command line: complete, resumed, damaged and refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import client as http
from gateway.cli import downloads as downloading
from gateway.cli.client import Client, Unreachable
from infrastructure.artifacts import Artifacts, Manifest, ManifestFile
from tests.builders.examples import evaluation_result, saved_checkpoint
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.cli.conftest import CommandLine, Served
from tests.gateway.cli.test_watching import act, train

WEIGHTS = bytes(range(256)) * 40
WEIGHTS_NAME = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(downloading, "RETRY_SECONDS", 0.0)


@pytest.fixture
def me(served: Served, platform: Platform) -> CommandLine:
    person = platform.person(dollars=10)
    platform.base_model()
    dataset = str(platform.dataset(person))
    platform.project()
    me = served.as_person(person)
    job = me.read("jobs", "launch", "--dataset", dataset, "--base-model", BASE_MODEL)["id"]
    train(platform, person, job, 3.0)
    return me


@pytest.fixture
def job(me: CommandLine, platform: Platform, tmp_path: Path) -> str:
    """A job with a checkpoint and a model that have the same files."""
    folder = tmp_path / "stored"
    (folder / "more").mkdir(parents=True)
    (folder / WEIGHTS_NAME).write_bytes(WEIGHTS)
    (folder / "more" / "empty.txt").touch()
    manifest = Artifacts(platform.settings.artifacts).put_directory("stored", folder)
    name = me.read("jobs", "list")["data"][0]["id"]
    act(
        platform,
        name,
        lambda job: job.save_checkpoint(
            saved_checkpoint(1, 10, 2.0, 5, "stored", manifest.sha256, 9)
        ),
        lambda job: job.start_evaluation(1, 30),
        lambda job: job.complete_evaluation(1, evaluation_result(2.5, 1.5, 1, 10)),
        lambda job: job.register(1, "stored", manifest.sha256),
    )
    return name


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return the requested files, each with its name and first byte."""
    asked: list[tuple[str, int]] = []
    file = Client.file

    def noting(self: Client, path: str, sha256: str, offset: int = 0) -> Any:
        asked.append((path.rpartition("/")[2], offset))
        return file(self, path, sha256, offset)

    monkeypatch.setattr(Client, "file", noting)
    return asked


def test_a_model_and_a_checkpoint_arrive_whole(me: CommandLine, job: str, tmp_path: Path) -> None:
    model = me.read("jobs", "show", job)["model"]
    commands = (
        ("jobs", "download", job),
        ("jobs", "download", job, "--step", "10"),
        ("models", "download", model),
    )
    for number, arguments in enumerate(commands):
        folder = tmp_path / str(number)
        told = me.read(*arguments, "--to", str(folder))
        assert (folder / WEIGHTS_NAME).read_bytes() == WEIGHTS
        assert (folder / "more" / "empty.txt").read_bytes() == b""
        assert told["directory"] == str(folder)
        assert [each["path"] for each in told["files"]][-1] == "manifest.json"
        assert not list(folder.rglob("*.part"))
    assert str(tmp_path / "0") in me.run("jobs", "download", job, "--to", str(tmp_path / "0"))


def test_an_interrupted_download_requests_only_missing_bytes(
    me: CommandLine, job: str, tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / f"{WEIGHTS_NAME}.part").write_bytes(WEIGHTS[:3000])
    me.run("jobs", "download", job, "--to", str(folder))
    assert (folder / WEIGHTS_NAME).read_bytes() == WEIGHTS
    assert asked == [(WEIGHTS_NAME, 3000), ("manifest.json", 0)]

    asked.clear()
    me.run("jobs", "download", job, "--to", str(folder))
    assert asked == []


def test_a_damaged_part_is_downloaded_again(
    me: CommandLine, job: str, tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / f"{WEIGHTS_NAME}.part").write_bytes(b"?" * 3000)
    (folder / "manifest.json").write_text("{}")
    me.run("jobs", "download", job, "--to", str(folder))
    assert (folder / WEIGHTS_NAME).read_bytes() == WEIGHTS
    assert asked == [(WEIGHTS_NAME, 3000), (WEIGHTS_NAME, 0), ("manifest.json", 0)]


def test_a_broken_connection_is_resumed(
    me: CommandLine,
    job: str,
    tmp_path: Path,
    asked: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = Client.file

    @contextmanager
    def breaking(
        self: Client, path: str, sha256: str, offset: int = 0
    ) -> Generator[tuple[int, Iterator[bytes]]]:
        def some(chunks: Iterator[bytes]) -> Iterator[bytes]:
            yield next(chunks)
            if len(asked) == 1:
                raise Unreachable("it broke")
            yield from chunks

        with file(self, path, sha256, offset) as (begin, chunks):
            yield begin, some(chunks)

    monkeypatch.setattr(Client, "file", breaking)
    folder = tmp_path / "here"
    me.run("jobs", "download", job, "--to", str(folder))
    assert (folder / WEIGHTS_NAME).read_bytes() == WEIGHTS
    assert asked == [(WEIGHTS_NAME, 0), (WEIGHTS_NAME, 1000), ("manifest.json", 0)]


def test_a_damaged_download_is_not_kept(
    me: CommandLine, job: str, tmp_path: Path, platform: Platform
) -> None:
    Artifacts(platform.settings.artifacts).put(f"stored/{WEIGHTS_NAME}", b"?" * len(WEIGHTS))
    folder = tmp_path / "here"
    told = me.refused("jobs", "download", job, "--to", str(folder), code=1)
    assert WEIGHTS_NAME in told
    assert list(folder.iterdir()) == []


def test_a_path_never_leads_out_of_the_directory(
    me: CommandLine, job: str, tmp_path: Path, platform: Platform
) -> None:
    digest = hashlib.sha256(b"").hexdigest()
    evil = Manifest(files=(ManifestFile(path="../out", bytes=0, sha256=digest),))
    Artifacts(platform.settings.artifacts).put("stored/manifest.json", evil.content)
    told = me.refused("jobs", "download", job, "--to", str(tmp_path / "here"), code=1)
    assert "../out" in told
    assert json.loads(evil.content)
    assert not (tmp_path / "out").exists()


def test_without_a_model_the_checkpoints_are_named(
    me: CommandLine, platform: Platform, tmp_path: Path
) -> None:
    name = me.read("jobs", "list")["data"][0]["id"]
    assert "--step" not in me.refused("jobs", "download", name, code=6)
    act(
        platform,
        name,
        lambda job: job.save_checkpoint(saved_checkpoint(1, 10, 2.0, 5, "stored", "c" * 64, 9)),
    )
    shown = me.refused("jobs", "download", name, code=6)
    assert "--step" in shown
    assert "10" in shown
    assert me.refused("jobs", "download", name, "--step", "11", code=4)
    assert me.refused("models", "download", "ft:tiny:none", code=4)
