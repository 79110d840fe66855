"""The gateway process: real sockets, bounded memory, and its exit."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from domain.datasets.dataset import Dataset
from infrastructure.artifacts.store import Artifacts
from infrastructure.settings import Settings
from tests.builders.platform import Person, Platform
from tests.gateway.conftest import MEBIBYTE, UPLOAD_BYTES, Gateway, healthy
from tests.polling import eventually
from tests.process_memory import peak_bytes, reset_peak

pytestmark = pytest.mark.full


def _files(settings: Settings) -> list[Path]:
    root = Artifacts(settings.artifacts).root
    assert root is not None
    return [path for path in (root / "uploads").rglob("*") if path.is_file()]


def _upload_body(url: str, person: Person, path: Path) -> int:
    with path.open("rb") as file:
        answer = httpx.post(
            f"{url}/api/datasets?name=large", content=file, headers=person.headers, timeout=60
        )
    assert answer.status_code == 202
    return answer.json()["total_bytes"]


def _upload_form(url: str, person: Person, path: Path) -> int:
    client = OpenAI(api_key=person.key, base_url=f"{url}/v1", max_retries=0)
    return client.files.create(file=path, purpose="fine-tune").bytes


@pytest.mark.parametrize(
    "upload", [_upload_body, pytest.param(_upload_form, marks=pytest.mark.full)]
)
def test_uploads_are_streamed(
    gateway: Gateway, platform: Platform, tmp_path: Path, upload: Callable[[str, Person, Path], int]
) -> None:
    process, path = gateway.process, tmp_path / "large.jsonl"
    with path.open("wb") as file:
        file.truncate(UPLOAD_BYTES)
    before = reset_peak(process)
    assert upload(gateway.url, platform.person(), path) == UPLOAD_BYTES
    peak = peak_bytes(process)
    print(f"RSS of the gateway, MiB: {before // MEBIBYTE} before, {peak // MEBIBYTE} at most")
    assert peak - before < 40 * MEBIBYTE
    assert peak < 200 * MEBIBYTE
    assert [path.stat().st_size for path in _files(platform.settings)] == [UPLOAD_BYTES]


def test_a_stopping_gateway_asks_its_clients_to_reconnect(gateway: Gateway) -> None:
    with httpx.Client(base_url=gateway.url) as client:
        assert "connection" not in client.get("/healthz").headers
        gateway.process.terminate()
        eventually(lambda: client.get("/healthz").headers.get("connection") == "close")


@pytest.mark.full
def test_downloads_are_streamed(gateway: Gateway, platform: Platform) -> None:
    process, person = gateway.process, platform.person()
    dataset_id = platform.dataset(person)
    ref = platform.log.load(Dataset, dataset_id).ref
    Artifacts(platform.settings.artifacts).put(ref, b"x" * 100 * MEBIBYTE)
    before, received = reset_peak(process), 0
    path = f"{gateway.url}/api/datasets/{dataset_id}/content"
    with httpx.stream("GET", path, headers=person.headers, timeout=120) as answer:
        for chunk in answer.iter_bytes():
            received += len(chunk)
    assert received == 100 * MEBIBYTE
    assert peak_bytes(process) - before < 40 * MEBIBYTE


def test_a_failed_upload_leaves_nothing(gateway: Gateway, platform: Platform) -> None:
    url = gateway.url
    chunk = b"x" * MEBIBYTE
    headers = platform.person().headers
    most = UPLOAD_BYTES // MEBIBYTE + 4
    for size in ({}, {"content-length": str(2 * most * MEBIBYTE)}):
        answer = httpx.post(
            f"{url}/api/datasets?name=large",
            content=(chunk for _ in range(2 * most)),
            headers=headers | size,
            timeout=120,
        )
        assert answer.status_code == 413
        assert f"{most} MiB" in answer.json()["error"]["message"]
    assert _files(platform.settings) == []
    _go_away(url, platform)


def _go_away(url: str, platform: Platform) -> None:
    """Disconnect in the middle of an upload, which must leave nothing behind."""
    host, port = url.removeprefix("http://").split(":")
    head = (
        "POST /api/datasets?name=cut HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n"
        f"Authorization: Bearer {platform.person().key}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + b"x" * (20 * MEBIBYTE))
        eventually(lambda: _files(platform.settings))  # the file is being written
    eventually(lambda: not _files(platform.settings))
    assert healthy(url)
