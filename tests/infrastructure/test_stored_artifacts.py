"""The promises of the artifact store, on a file system and on S3 alike."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextvars import copy_context
from pathlib import Path

import pytest

from infrastructure.artifacts.store import (
    DENIED,
    MANIFEST,
    MOST_PARTS,
    PART_BYTES,
    ArtifactCorrupt,
    Artifacts,
    part_bytes,
)
from infrastructure.process.role import Role, enter

SEVERAL_PARTS = 3 * PART_BYTES + 17


@pytest.fixture(params=["file", "s3"])
def artifacts(tmp_path: Path, request: pytest.FixtureRequest) -> Artifacts:
    if request.param == "file":
        return Artifacts((tmp_path / "store").as_uri())
    return Artifacts(request.getfixturevalue("s3_url"))


@pytest.fixture(scope="module")
def content() -> bytes:
    return os.urandom(SEVERAL_PARTS)


@pytest.fixture
def directory(tmp_path: Path, content: bytes) -> Path:
    made = tmp_path / "directory"
    (made / "deep").mkdir(parents=True)
    (made / "weights").write_bytes(content)
    (made / "deep" / "config").write_bytes(b"{}")
    (made / "empty").touch()
    return made


async def in_chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 700_000):
        yield content[start : start + 700_000]


def test_bytes_are_stored_replaced_and_deleted(artifacts: Artifacts) -> None:
    artifacts.put("a/b", b"one")
    artifacts.put("a/b", b"three")
    artifacts.put("a/bc", b"other")
    assert (artifacts.get("a/b"), artifacts.size("a/b")) == (b"three", 5)
    assert artifacts.exists("a/b")
    artifacts.delete("a/b")
    artifacts.delete("a/b")
    assert not artifacts.exists("a/b")
    for read in (artifacts.get, artifacts.size, lambda ref: list(artifacts.stream(ref))):
        with pytest.raises(FileNotFoundError):
            read("a/b")


def test_create_refuses_an_existing_ref(artifacts: Artifacts) -> None:
    assert artifacts.create("lock", b"first")
    assert not artifacts.create("lock", b"second")
    assert artifacts.get("lock") == b"first"
    artifacts.delete("lock")
    assert artifacts.create("lock", b"third")


def test_lists_have_the_refs_below_a_prefix(artifacts: Artifacts) -> None:
    for ref in ("jobs/2/x", "jobs/1/deep/y", "jobs/10/z"):
        artifacts.put(ref, ref.encode())
    assert artifacts.list("jobs/1") == ["jobs/1/deep/y"]
    assert artifacts.list("jobs") == ["jobs/1/deep/y", "jobs/10/z", "jobs/2/x"]
    assert artifacts.list("none") == []
    assert artifacts.sizes("jobs/2") == {"jobs/2/x": 8}
    artifacts.delete_directory("jobs/1")
    artifacts.delete_directory("none")
    assert artifacts.list("") == ["jobs/10/z", "jobs/2/x"]


async def test_a_stream_of_several_parts_is_stored(artifacts: Artifacts, content: bytes) -> None:
    stored = await artifacts.put_stream("uploads/one", in_chunks(content))
    assert stored == (len(content), hashlib.sha256(content).hexdigest())
    assert b"".join(artifacts.stream("uploads/one")) == content
    middle = [each async for each in artifacts.stream_range("uploads/one", 7, PART_BYTES + 7)]
    assert b"".join(middle) == content[7 : PART_BYTES + 7]


@pytest.mark.full
@pytest.mark.parametrize("stored", [0, PART_BYTES, 2 * PART_BYTES + 1])
async def test_a_failed_stream_stores_nothing(
    artifacts: Artifacts, content: bytes, stored: int
) -> None:
    async def failing() -> AsyncIterator[bytes]:
        async for chunk in in_chunks(content[:stored]):
            yield chunk
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await artifacts.put_stream("uploads/one", failing())
    assert artifacts.list("") == []
    assert not artifacts.exists("uploads/one")


def test_a_directory_comes_back_as_it_was(
    artifacts: Artifacts, directory: Path, tmp_path: Path, content: bytes
) -> None:
    stored = artifacts.put_directory("models/one", directory)
    assert artifacts.manifest("models/one") == stored
    assert stored.total_bytes == len(content) + 2
    assert artifacts.get_directory("models/one", tmp_path / "copy") == stored
    assert (tmp_path / "copy/weights").read_bytes() == content
    assert (tmp_path / "copy/deep/config").read_bytes() == b"{}"
    assert (tmp_path / "copy/empty").read_bytes() == b""
    local = artifacts.local_directory("models/one", tmp_path / "cache")
    assert (local / "weights").read_bytes() == content
    assert artifacts.local_file("models/one/weights", tmp_path).read_bytes() == content


def test_a_taken_directory_is_stored_and_then_deleted(
    artifacts: Artifacts, directory: Path, tmp_path: Path, content: bytes
) -> None:
    known = {"weights": hashlib.sha256(content).hexdigest()}
    artifacts.take_directory("checkpoints/1", directory, known)
    assert not directory.exists()
    artifacts.get_directory("checkpoints/1", tmp_path / "copy")
    assert (tmp_path / "copy/weights").read_bytes() == content


def test_the_manifest_is_stored_last(
    artifacts: Artifacts, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[str] = []
    put, put_file = artifacts.put, artifacts.put_file

    def noting_put(ref: str, content: bytes) -> None:
        assert len(artifacts.list("models")) == 3
        put(ref, content)
        stored.append(ref)

    def noting_put_file(ref: str, path: Path) -> None:
        put_file(ref, path)
        stored.append(ref)

    monkeypatch.setattr(artifacts, "put", noting_put)
    monkeypatch.setattr(artifacts, "put_file", noting_put_file)
    artifacts.put_directory("models/one", directory)
    assert stored[-1] == f"models/one/{MANIFEST}"


def test_added_files_are_in_the_new_manifest(
    artifacts: Artifacts, directory: Path, tmp_path: Path
) -> None:
    whole = artifacts.add_files(
        "models/one", artifacts.put_directory("models/one", directory), {"README.md": b"# One"}
    )
    assert artifacts.manifest("models/one") == whole
    artifacts.get_directory("models/one", tmp_path / "copy", only={"README.md"})
    assert [each.name for each in (tmp_path / "copy").iterdir()] == ["README.md"]


def put_manifest(artifacts: Artifacts, *paths: str, size: int = 1) -> None:
    """Store files of one byte, and a manifest as a hostile trainer may write it."""
    artifacts.put("models/one/x", b"1")
    sha256 = hashlib.sha256(b"1").hexdigest()
    files = [{"path": path, "bytes": size, "sha256": sha256} for path in paths]
    artifacts.put(f"models/one/{MANIFEST}", json.dumps({"files": files}).encode())


HOSTILE_PATHS = {
    "parent": ["../../x"],
    "hidden parent": ["a/../../x"],
    "absolute": ["{folder}/x"],
    "current": ["./x"],
    "empty": [""],
    "empty part": ["a//x"],
    "folder": ["x/"],
    "backslash": ["a\\..\\x"],
    "NUL": ["x\0"],
    "line": ["x\ny"],
    "long": ["x" * 256],
    "manifest": [MANIFEST],
    "repeated": ["x", "x"],
    "other case": ["x", "X"],
    "file and folder": ["x", "x.y", "x/y"],
    "too many": [f"x{number}" for number in range(10_001)],
}


@pytest.mark.parametrize("paths", HOSTILE_PATHS.values(), ids=HOSTILE_PATHS)
def test_a_hostile_manifest_changes_no_file(tmp_path: Path, paths: list[str]) -> None:
    artifacts = Artifacts((tmp_path / "store").as_uri())
    kept = tmp_path / "x"
    kept.write_bytes(b"kept")
    put_manifest(artifacts, *(path.replace("{folder}", str(tmp_path)) for path in paths))
    with pytest.raises(ArtifactCorrupt):
        artifacts.get_directory("models/one", tmp_path / "a" / "b")
    assert kept.read_bytes() == b"kept"
    assert not (tmp_path / "a").exists()


def test_a_directory_is_only_written_to_new_files(artifacts: Artifacts, tmp_path: Path) -> None:
    put_manifest(artifacts, "x")
    kept = tmp_path / "kept"
    kept.write_bytes(b"kept")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "x").symlink_to(kept)
    with pytest.raises(FileExistsError):
        artifacts.get_directory("models/one", tmp_path / "copy")
    assert kept.read_bytes() == b"kept"


def test_a_file_larger_than_its_manifest_says_does_not_fill_the_disk(
    artifacts: Artifacts, tmp_path: Path, content: bytes
) -> None:
    put_manifest(artifacts, "x")
    artifacts.put("models/one/x", content)
    with pytest.raises(ArtifactCorrupt):
        artifacts.get_directory("models/one", tmp_path / "copy")
    assert (tmp_path / "copy" / "x").stat().st_size < len(content)
    put_manifest(artifacts, "x", size=-(10**15))
    with pytest.raises(ArtifactCorrupt):
        artifacts.manifest("models/one")


def test_a_huge_manifest_is_not_read_into_memory(artifacts: Artifacts) -> None:
    put_manifest(artifacts, "x")
    stored = artifacts.get(f"models/one/{MANIFEST}")
    artifacts.put(f"models/one/{MANIFEST}", stored + b" " * 9 * 1024**2)
    with pytest.raises(ArtifactCorrupt):
        artifacts.manifest("models/one")


def test_changed_and_missing_files_are_found(
    artifacts: Artifacts, directory: Path, tmp_path: Path
) -> None:
    artifacts.put_directory("models/one", directory)
    artifacts.put("models/one/deep/config", b"[]")
    with pytest.raises(ArtifactCorrupt, match="deep/config differs"):
        artifacts.get_directory("models/one", tmp_path / "changed")
    artifacts.delete("models/one/deep/config")
    with pytest.raises(ArtifactCorrupt, match="deep/config is missing"):
        artifacts.get_directory("models/one", tmp_path / "missing")
    artifacts.put(f"models/one/{MANIFEST}", b"{}")
    with pytest.raises(ArtifactCorrupt, match="not a manifest"):
        artifacts.manifest("models/one")
    artifacts.delete(f"models/one/{MANIFEST}")
    with pytest.raises(FileNotFoundError):
        artifacts.local_directory("models/one", tmp_path / "cache")


@pytest.mark.parametrize(
    ("size", "part"),
    [(0, PART_BYTES), (PART_BYTES * MOST_PARTS, PART_BYTES), (10**12, 10**8)],
)
def test_an_upload_has_at_most_ten_thousand_parts(size: int, part: int) -> None:
    assert part_bytes(size) == part
    assert part * MOST_PARTS >= size


def test_a_store_that_refuses_the_keys_is_not_an_outage(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    refused, small, large = Artifacts(s3_url), tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"x")
    large.write_bytes(bytes(SEVERAL_PARTS))
    with pytest.raises(DENIED):
        refused.get("a")
    for path in (small, large):
        with pytest.raises(DENIED):
            refused.put_file("a", path)


def test_a_role_uses_its_own_keys(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-another-role")

    def put() -> None:
        enter(Role("alerts", own))
        Artifacts(s3_url).put("seals/probe", b"probe")

    with pytest.raises(DENIED):
        Artifacts(s3_url).put("seals/probe", b"probe")
    copy_context().run(put)
