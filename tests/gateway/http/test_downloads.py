"""Downloads of checkpoints, models and datasets, complete and by range."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from fastapi.testclient import TestClient
from starlette.exceptions import HTTPException

from domain.datasets.dataset import Dataset
from gateway.http.downloads import span
from infrastructure.artifacts import store as stored
from infrastructure.artifacts.store import Artifacts
from tests.builders.platform import Platform
from tests.gateway.jobs.owners import Owner

WEIGHTS = bytes(range(256)) * 40
ETAG = f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'


@pytest.fixture
def owner(client: TestClient, platform: Platform, tmp_path: Path) -> Owner:
    """The owner of a job with one checkpoint, whose files are stored."""
    owner, folder = Owner(client, platform), tmp_path / "adapter"
    (folder / "more").mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
    (folder / "more" / "empty.txt").touch()
    Artifacts(platform.settings.artifacts).put_directory("checkpoints/1", folder)
    owner.train()
    return owner


@pytest.fixture
def files(owner: Owner) -> str:
    """Return the path of the checkpoint's files once it is visible."""
    path = f"{owner.path}/checkpoints/10/files"
    owner.platform.project()
    return path


@pytest.fixture(autouse=True)
def short_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read files in several parts."""
    monkeypatch.setattr(stored, "RANGE_BYTES", 1000)


def get(owner: Owner, path: str, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return owner.client.get(path, headers=owner.person.headers | named)


def test_every_file_of_a_checkpoint_is_listed_and_can_be_downloaded(
    owner: Owner, files: str
) -> None:
    listed = get(owner, files).json()["data"]
    assert [each["path"] for each in listed] == [
        *("adapter_model.safetensors", "more/empty.txt", "manifest.json")
    ]
    for each in listed:
        answer = get(owner, f"{files}/{each['path']}")
        assert answer.status_code == 200
        assert len(answer.content) == each["bytes"] == int(answer.headers["content-length"])
        assert hashlib.sha256(answer.content).hexdigest() == each["sha256"]
        assert answer.headers["etag"] == f'"{each["sha256"]}"'
        assert answer.headers["accept-ranges"] == "bytes"


def test_the_adapter_of_a_checkpoint_is_one_archive(owner: Owner, files: str) -> None:
    answer = get(owner, files.replace("/files", "/archive"))
    directory = f"{owner.path.rpartition('/')[2]}-step-10"
    assert f"{directory}.zip" in answer.headers["content-disposition"]
    with ZipFile(io.BytesIO(answer.content)) as zipped:
        assert zipped.namelist() == [f"{directory}/adapter_model.safetensors"]
        assert zipped.read(zipped.namelist()[0]) == WEIGHTS
    assert get(owner, f"{owner.path}/checkpoints/11/archive").status_code == 404


def test_an_interrupted_download_resumes(owner: Owner, files: str) -> None:
    path = f"{files}/adapter_model.safetensors"
    rest = get(owner, path, range="bytes=3001-", if_range=ETAG)
    assert rest.status_code == 206
    assert rest.headers["content-range"] == f"bytes 3001-{len(WEIGHTS) - 1}/{len(WEIGHTS)}"
    assert int(rest.headers["content-length"]) == len(WEIGHTS) - 3001
    assert rest.content == WEIGHTS[3001:]

    other = get(owner, path, range="bytes=3001-", if_range='"another file"')
    assert (other.status_code, other.content) == (200, WEIGHTS)
    assert "content-range" not in other.headers


def test_a_range_outside_the_file_is_refused(owner: Owner, files: str) -> None:
    for path, size in (("adapter_model.safetensors", len(WEIGHTS)), ("more/empty.txt", 0)):
        beyond = get(owner, f"{files}/{path}", range=f"bytes={size}-")
        assert beyond.status_code == 416
        assert beyond.headers["content-range"] == f"bytes */{size}"
        assert f"has {size:,} bytes" in beyond.json()["error"]["message"]


def test_an_unchanged_file_is_not_sent(owner: Owner, files: str) -> None:
    path = f"{files}/adapter_model.safetensors"
    for known in (ETAG, f"W/{ETAG}", f'"other", {ETAG}', "*"):
        answer = get(owner, path, if_none_match=known)
        assert (answer.status_code, answer.content) == (304, b"")
    assert get(owner, path, if_none_match='"other"').status_code == 200


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=2-4", (2, 5)),
        ("bytes=2-400", (2, 10)),
        ("bytes=9-", (9, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=4-2", None),
        ("bytes=-", None),
        ("bytes=0-1,4-5", None),
        ("lines=0-1", None),
        ("bytes=\u0663-\u0664", None),
        (f"bytes={'1' * 5000}-", None),
        ("", None),
    ],
)
def test_valid_range_headers(header: str | None, expected: tuple[int, int] | None) -> None:
    assert span(header, 10) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0", f"bytes={10**18}-"])
def test_invalid_range_headers(header: str) -> None:
    with pytest.raises(HTTPException) as refused:
        span(header, 10)
    assert refused.value.status_code == 416


def test_missing_files_and_files_of_other_accounts_are_not_found(owner: Owner, files: str) -> None:
    stranger = owner.platform.person()
    for path in (files, f"{files}/adapter_model.safetensors"):
        answer = owner.client.get(path, headers=stranger.headers)
        assert answer.status_code == 404
    for path in (
        f"{files}/other",
        f"{files}/../10/files/manifest.json",
        f"{owner.path}/checkpoints/11/files",
        "/api/models/ft:tiny:0/files",
        "/api/models/ft:tiny:0/files/manifest.json",
    ):
        assert get(owner, path).status_code in (404, 405), path
    assert get(owner, f"{files}/%2e%2e%2fmanifest.json").status_code == 404


def test_deleted_files_are_not_found(owner: Owner, files: str) -> None:
    store = Artifacts(owner.platform.settings.artifacts)
    store.delete("checkpoints/1/adapter_model.safetensors")
    assert get(owner, f"{files}/adapter_model.safetensors").status_code == 404
    store.delete_directory("checkpoints/1")
    assert get(owner, files).status_code == 404


def test_the_files_of_a_model(owner: Owner, files: str) -> None:
    owner.give("cancel")
    owner.end()
    model = owner.give("promote").json()["model"]
    path = f"/api/models/{model}/files"
    assert [each["path"] for each in get(owner, path).json()["data"]] == [
        *("adapter_model.safetensors", "more/empty.txt", "manifest.json")
    ]
    weights = get(owner, f"{path}/adapter_model.safetensors", range="bytes=-10")
    assert (weights.status_code, weights.content) == (206, WEIGHTS[-10:])
    stranger = owner.platform.person()
    assert owner.client.get(path, headers=stranger.headers).status_code == 404


def test_the_content_of_a_dataset(client: TestClient, platform: Platform) -> None:
    person = platform.person()
    dataset_id = platform.dataset(person)
    content = b'{"messages": []}\n' * 200
    Artifacts(platform.settings.artifacts).put(platform.log.load(Dataset, dataset_id).ref, content)
    path = f"/api/datasets/{dataset_id}/content"
    whole = client.get(path, headers=person.headers)
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["content-type"] == "application/jsonl"
    part = client.get(path, headers=person.headers | {"range": "bytes=17-33"})
    assert (part.status_code, part.content) == (206, content[17:34])

    validating = f"/api/datasets/{platform.dataset(person, ready=False)}/content"
    assert client.get(validating, headers=person.headers).status_code == 409
    assert client.get(path, headers=platform.person().headers).status_code == 404
