"""Downloads on the command line: complete, resumed, damaged and refused."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import client as http
from gateway.cli import downloads as downloading
from gateway.cli.client import Client, Unreachable
from infrastructure.artifacts.store import Artifacts, Manifest, ManifestFile
from tests.builders.platform import Platform
from tests.builders.platform_job import PlatformJob
from tests.gateway.cli.conftest import Owner

WEIGHTS = bytes(range(256)) * 40
WEIGHTS_NAME = "adapter_model.safetensors"

Asked = list[tuple[str, int]]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(downloading, "RETRY_SECONDS", 0.0)


@pytest.fixture
def job(me: Owner) -> PlatformJob:
    """A job without a checkpoint."""
    job = me.start()
    job.train(checkpoint=None)
    return job


@pytest.fixture
def name(job: PlatformJob, platform: Platform, tmp_path: Path) -> str:
    """Return the name of a job with a checkpoint and a model that have the same files."""
    folder = tmp_path / "stored"
    (folder / "more").mkdir(parents=True)
    (folder / WEIGHTS_NAME).write_bytes(WEIGHTS)
    (folder / "more" / "empty.txt").touch()
    manifest = Artifacts(platform.settings.artifacts).put_directory("stored", folder)
    job.save(10, ref="stored", sha256=manifest.sha256)
    job.register("stored", manifest.sha256)
    platform.project()
    return job.name


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return the directory of a download."""
    return tmp_path / "here"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Return the requested files, each with its name and first byte."""
    asked: Asked = []
    file = Client.file

    def noting(self: Client, path: str, sha256: str, offset: int = 0) -> Any:
        asked.append((path.rpartition("/")[2], offset))
        return file(self, path, sha256, offset)

    monkeypatch.setattr(Client, "file", noting)
    return asked


def test_a_model_and_a_checkpoint_arrive_whole(me: Owner, name: str, tmp_path: Path) -> None:
    model = me.read("jobs", "show", name)["model"]
    commands = (
        ("jobs", "download", name),
        ("jobs", "download", name, "--step", "10"),
        ("models", "download", model),
    )
    for number, arguments in enumerate(commands):
        folder = tmp_path / str(number)
        shown = me.read(*arguments, "--to", str(folder))
        assert (folder / WEIGHTS_NAME).read_bytes() == WEIGHTS
        assert (folder / "more" / "empty.txt").read_bytes() == b""
        assert shown["directory"] == str(folder)
        assert [each["path"] for each in shown["files"]][-1] == "manifest.json"
        assert not list(folder.rglob("*.part"))
    assert str(tmp_path / "0") in me.run("jobs", "download", name, "--to", str(tmp_path / "0"))


@pytest.mark.parametrize(
    ("part", "fetched"),
    [
        (WEIGHTS[:3000], [(WEIGHTS_NAME, 3000)]),
        (b"?" * 3000, [(WEIGHTS_NAME, 3000), (WEIGHTS_NAME, 0)]),
    ],
)
def test_a_partial_file_is_continued_or_downloaded_again_if_damaged(
    me: Owner, name: str, here: Path, asked: Asked, part: bytes, fetched: Asked
) -> None:
    here.mkdir()
    (here / f"{WEIGHTS_NAME}.part").write_bytes(part)
    (here / "manifest.json").write_text("{}")
    me.run("jobs", "download", name, "--to", str(here))
    assert (here / WEIGHTS_NAME).read_bytes() == WEIGHTS
    assert asked == [*fetched, ("manifest.json", 0)]

    asked.clear()
    me.run("jobs", "download", name, "--to", str(here))
    assert asked == []


def test_a_broken_connection_is_resumed(
    me: Owner, name: str, here: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
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
    me.run("jobs", "download", name, "--to", str(here))
    assert (here / WEIGHTS_NAME).read_bytes() == WEIGHTS
    assert asked == [(WEIGHTS_NAME, 0), (WEIGHTS_NAME, 1000), ("manifest.json", 0)]


def test_a_damaged_download_is_not_kept(
    me: Owner, name: str, here: Path, platform: Platform
) -> None:
    Artifacts(platform.settings.artifacts).put(f"stored/{WEIGHTS_NAME}", b"?" * len(WEIGHTS))
    shown = me.refused("jobs", "download", name, "--to", str(here), code=1)
    assert WEIGHTS_NAME in shown
    assert list(here.iterdir()) == []


def test_a_path_never_leads_out_of_the_directory(
    me: Owner, name: str, here: Path, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(b"").hexdigest()
    evil = ManifestFile.model_construct(path="../out", bytes=0, sha256=digest)
    manifest = Manifest.model_construct(files=(evil,))
    Artifacts(platform.settings.artifacts).put("stored/manifest.json", manifest.content)
    assert "damaged" in me.refused("jobs", "download", name, "--to", str(here), code=4)
    # A gateway of version 0.1 lists the path.
    monkeypatch.setattr(Artifacts, "manifest", lambda *_: manifest)
    shown = me.refused("jobs", "download", name, "--to", str(here), code=1)
    assert "../out" in shown
    assert not (here.parent / "out").exists()


def test_without_a_model_the_checkpoints_are_named(
    me: Owner, job: PlatformJob, platform: Platform
) -> None:
    assert "--step" not in me.refused("jobs", "download", job.name, code=6)
    job.save(10)
    platform.project()
    shown = me.refused("jobs", "download", job.name, code=6)
    assert "--step" in shown
    assert "10" in shown
    assert me.refused("jobs", "download", job.name, "--step", "11", code=4)
    assert me.refused("models", "download", "ft:tiny:none", code=4)
