"""A SeaweedFS with an S3 interface, as a process on the loopback interface."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from deploy.local.ports import free_port
from tests.polling import eventually

ACCESS_KEY, SECRET_KEY, BUCKET = "backup-access", "backup-secret", "backups"
WEED = Path(sys.executable).parent / "weed"
SERVERS = ("master", "volume", "filer", "s3")

CREDENTIALS = {
    "identities": [
        {
            "name": "backup",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Read", "Write", "List"],
        }
    ]
}


@contextmanager
def running_object_store(folder: Path) -> Iterator[dict[str, str]]:
    """Run an object store with an empty bucket. Yield the variables of its clients."""
    config, data = folder / "s3.json", folder / "data"
    config.write_text(json.dumps(CREDENTIALS))
    data.mkdir()
    ports = _ports()
    options = [f"-{name}={port}" for name, port in ports.items()]
    command = [
        *(str(WEED), f"-logdir={folder}", "server", f"-dir={data}", "-s3", f"-s3.config={config}"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.port.iceberg=0"),
        *("-master.volumeSizeLimitMB=64", "-master.telemetry=false", "-volume.max=20"),
    ]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen([*command, *options], stdout=output, stderr=output, cwd=folder)
        try:
            filer = f"http://127.0.0.1:{ports['filer.port']}"
            endpoint = f"http://127.0.0.1:{ports['s3.port']}"
            eventually(lambda: _answers(process, endpoint))
            eventually(lambda: _posted(f"{filer}/buckets/{BUCKET}/"))
            yield {
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_ALLOW_HTTP": "true",
            }
        finally:
            process.terminate()
            process.wait()


def _ports() -> dict[str, int]:
    """Return different free ports for the servers."""
    names = [name for each in SERVERS for name in (f"{each}.port", f"{each}.port.grpc")]
    found: dict[str, int] = {}
    while len(found) < len(names):
        port = free_port()
        if port not in found.values():
            found[names[len(found)]] = port
    return found


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    assert process.poll() is None, "the object store ended; see its file `output`"
    try:
        return httpx.get(url).status_code < 500
    except httpx.TransportError:
        return False


def _posted(url: str) -> bool:
    try:
        return httpx.post(url).is_success
    except httpx.TransportError:
        return False
