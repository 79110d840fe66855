"""`ecolink nats-config`: an external server works with the printed settings."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.nats import binary
from deploy.local.ports import free_port
from deploy.nats_accounts import USERS
from infrastructure.bus.streams import REPORTS, connect, provision
from infrastructure.settings import Settings
from infrastructure.training.segment_credentials import CredentialIssuer
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.deploy.operator.command_line import ecolink
from tests.deploy.test_trainer_credentials import connected
from tests.polling import eventually


def printed(folder: Path, port: int) -> dict[str, str]:
    """The settings that the command prints."""
    arguments = ["nats-config", str(folder), "--port", str(port), "--store", str(folder / "js")]
    lines = [line for line in ecolink(*arguments).splitlines() if line.startswith("ECOLINK_")]
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a server that runs with the written configuration."""
    given = printed(tmp_path, free_port())
    log = tmp_path / "nats.log"
    command = [str(binary()), "--config", str(tmp_path / "nats.conf"), "--log", str(log)]
    process = subprocess.Popen(command)
    eventually(lambda: log.exists() and "Server is ready" in log.read_text())
    yield Settings(**{name.removeprefix("ECOLINK_").lower(): given[name] for name in given})  # type: ignore[arg-type]
    process.terminate()
    process.wait()


async def test_services_and_a_segment_connect_to_the_server(
    own_server: Settings,
) -> None:
    services = await connect(own_server)
    await provision(services.jetstream(), ())
    issuer = CredentialIssuer.of(own_server)
    assert issuer is not None
    trainer = await connected(own_server, issuer.issue(ACCOUNT_ID, JOB_ID, 1))
    subject = f"reports.{ACCOUNT_ID}.{JOB_ID}.1"
    assert (await trainer.client.jetstream().publish(subject, b"{}")).stream == REPORTS
    await trainer.client.close()
    await services.close()


def test_keys_are_private_and_kept_by_a_second_call(tmp_path: Path) -> None:
    first, second = printed(tmp_path, 4222), printed(tmp_path, 4222)
    assert first == second
    for name in ("keys.json", "nats.conf", *(f"users/{user}.creds" for user in USERS)):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "nats.conf").read_text())["port"] == 4222


def test_each_server_of_a_cluster_has_its_own_configuration(tmp_path: Path) -> None:
    nodes = {"n1": "10.0.0.1", "n2": "10.0.0.2", "n3": "10.0.0.3"}
    options = [f"--node={name}={address}" for name, address in nodes.items()]
    shown = ecolink("nats-config", str(tmp_path), *options, "--tls", "/etc/nats/tls")
    url = ",".join(f"tls://{address}:4222" for address in nodes.values())
    assert f"ECOLINK_NATS_URL={url}\nECOLINK_NATS_REPLICAS=3\n" in shown
    configured = {name: json.loads((tmp_path / f"nats-{name}.conf").read_text()) for name in nodes}
    for name, address in nodes.items():
        found = configured[name]
        assert (found["server_name"], found["host"]) == (name, address)
        assert found["tls"]["cert_file"] == "/etc/nats/tls/server.pem"
        assert found["cluster"]["tls"]["verify"]
        assert len(found["cluster"]["routes"]) == len(nodes)
        password = found["cluster"]["authorization"]["password"]
        assert all(f":{password}@" in route for route in found["cluster"]["routes"])
    assert len({str(found["cluster"]["routes"]) for found in configured.values()}) == 1


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (["n1"], "NAME=HOST"),
        (["n1=a", "n1=b", "n2=c"], "NAME=HOST"),
        (["n1=a", "n2=b"], "2 times"),
    ],
)
def test_an_invalid_cluster_is_refused(tmp_path: Path, nodes: list[str], reason: str) -> None:
    options = [f"--node={each}" for each in nodes]
    assert reason in ecolink("nats-config", str(tmp_path / "new"), *options, exit_code=2)
    assert not (tmp_path / "new").exists()
