"""A SeaweedFS with an S3 interface and temporary credentials, as a process on loopback."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from deploy.local.ports import free_port
from infrastructure.process.limited_process import die_with_parent
from tests.polling import eventually

BUCKET = "artifacts"
ACCESS_KEY, SECRET_KEY = "services-access", "services-secret"
ROLE = "arn:aws:iam::000000000000:role/EcoLinkTrainer"
ISSUER, SIGNING_KEY = "seaweedfs-sts", b"signs the tokens of temporary credentials in tests"
WEED = Path(sys.executable).parent / "weed"
SERVERS = ("master", "volume", "filer", "s3")

IDENTITIES = {
    "identities": [
        {
            "name": "services",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
    ]
}

ROLES = {
    "sts": {
        "tokenDuration": "1h",
        "maxSessionLength": "12h",
        "issuer": ISSUER,
        "signingKey": base64.b64encode(SIGNING_KEY).decode(),
    },
    "policy": {"defaultEffect": "Deny"},
    "policies": [
        {
            "name": "Objects",
            "document": {
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["*"]}],
            },
        }
    ],
    "roles": [
        {
            "roleName": "EcoLinkTrainer",
            "roleArn": ROLE,
            "trustPolicy": {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Principal": {"AWS": "arn:aws:iam::000000000000:user/services"},
                        "Action": ["sts:AssumeRole"],
                    }
                ],
            },
            "attachedPolicies": ["Objects"],
        }
    ],
}


@dataclass(frozen=True)
class ObjectStore:
    """A running object store, at an endpoint that its clients use."""

    endpoint: str
    port: int
    filer_url: str

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of clients with the services' credentials."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def at(self, endpoint: str) -> ObjectStore:
        """Return the same object store behind a proxy."""
        return replace(self, endpoint=endpoint)

    def make_bucket(self, name: str) -> str:
        """Create an empty bucket. Return its URL."""
        eventually(lambda: _posted(f"{self.filer_url}/buckets/{name}/"))
        return f"s3://{name}"


@contextmanager
def running_object_store(folder: Path) -> Iterator[ObjectStore]:
    """Run an object store with an empty bucket."""
    identities, roles, data = folder / "s3.json", folder / "iam.json", folder / "data"
    identities.write_text(json.dumps(IDENTITIES))
    roles.write_text(json.dumps(ROLES))
    data.mkdir()
    ports = _ports()
    options = [f"-{name}={port}" for name, port in ports.items()]
    command = [
        *(str(WEED), f"-logdir={folder}", "server", f"-dir={data}"),
        *("-s3", f"-s3.config={identities}", f"-s3.iam.config={roles}"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-master.volumeSizeLimitMB=64", "-master.telemetry=false", "-volume.max=1000"),
        f"-s3.localSocket={folder / 's3.sock'}",
    ]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [*command, *options],
            stdout=output,
            stderr=output,
            cwd=folder,
            preexec_fn=die_with_parent,
        )
        port = ports["s3.port"]
        endpoint, filer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{ports['filer.port']}"
        try:
            eventually(lambda: _answers(process, endpoint))
            store = ObjectStore(endpoint, port, filer)
            store.make_bucket(BUCKET)
            yield store
        finally:
            process.kill()  # its own end takes up to 25 s
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
