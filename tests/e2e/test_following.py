"""A client that follows a job over the WebSocket, and fetches what came of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import connect

from tests.running import TIMEOUT_SECONDS, EcoLinkUnderTest


def followed(ecolink: EcoLinkUnderTest, job: str, key: str) -> list[dict[str, Any]]:
    """Every event of a job up to the end of its meter; the connection is lost after each third."""
    assert ecolink.settings.gateway_url is not None
    stream = f"{ecolink.settings.gateway_url.replace('http', 'ws', 1)}/api/events/stream?job={job}"
    found: list[dict[str, Any]] = []
    while not found or found[-1]["event"] != "MeterClosed":
        after = found[-1]["sequence"] if found else 0
        with connect(f"{stream}&after={after}", additional_headers=bearer(key)) as socket:
            for _ in range(3):
                found.append(json.loads(socket.recv(timeout=TIMEOUT_SECONDS)))
                if found[-1]["event"] == "MeterClosed":
                    break
    return found


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_a_job_is_followed_to_its_end_and_its_model_fetched(
    ecolink: EcoLinkUnderTest, tmp_path: Path
) -> None:
    path = ecolink.approve(ecolink.dataset(tmp_path, 40), epochs=1)
    told = followed(ecolink, path.rpartition("/")[2], ecolink.key)
    registered = ecolink.await_end(path)
    timeline = ecolink.client.get(f"{path}/timeline")["data"]
    about_the_pool = {"GpusRequested", "GpusAllocated", "GpusReleased"}
    own = [each for each in told if each["event"] not in about_the_pool]
    assert [each["id"] for each in own] == [each["event_id"] for each in timeline][: len(own)]
    assert "Registered" in [each["event"] for each in own]

    files = ecolink.client.get(f"/models/{registered['model']}/files")["data"]
    url = f"{ecolink.settings.gateway_url}/api/models/{registered['model']}/files"
    for file in files:
        content = b""
        for wanted in ("bytes=0-99", "bytes=100-"):
            answer = httpx.get(
                f"{url}/{file['path']}", headers=bearer(ecolink.key) | {"range": wanted}
            )
            content += answer.content if answer.status_code == 206 else b""
        assert hashlib.sha256(content).hexdigest() == file["sha256"], file["path"]
    assert "adapter_model.safetensors" in [file["path"] for file in files]
