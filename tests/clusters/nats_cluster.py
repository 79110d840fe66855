"""A cluster of three NATS servers with the accounts and the configuration of production."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nats.js import JetStreamContext

from deploy.local.nats import binary
from deploy.local.ports import free_port
from deploy.nats_accounts import Certificates, ClusterNode, NatsKeys, configuration
from infrastructure.settings import Settings
from tests.bus_administrator import administrator_credentials

NAMES = ("n1", "n2", "n3")


class NatsCluster:
    """Servers that keep their ports and their data when they are killed and started again."""

    def __init__(self, directory: Path, certificates: Path | None = None) -> None:
        self.keys = NatsKeys()
        self._directory = directory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        tls = None if certificates is None else Certificates(certificates)
        self._authority = None if certificates is None else certificates / "ca.pem"
        ports = {name: (free_port(), free_port()) for name in NAMES}
        peers = tuple(f"127.0.0.1:{cluster_port}" for _, cluster_port in ports.values())
        for name, (port, cluster_port) in ports.items():
            node = ClusterNode(name, peers, cluster_port)
            store = directory / name
            text = configuration(self.keys, store, port, node=node, certificates=tls)
            self._config(name).write_text(text)
        self.route_ports = {name: cluster_port for name, (_, cluster_port) in ports.items()}
        self.credentials = directory / "administrator.creds"
        self.credentials.write_text(administrator_credentials(self.keys))
        scheme = "nats" if certificates is None else "tls"
        self.url = ",".join(f"{scheme}://127.0.0.1:{port}" for port, _ in ports.values())

    def settings(self, base: Settings) -> Settings:
        """Return settings that use this cluster."""
        known: dict[str, object] = {"nats_url": self.url, "nats_credentials": self.credentials}
        known |= {"nats_replicas": len(NAMES), "nats_ca": self._authority}
        return base.model_copy(update=known | {"nats_trainer_seed": self.keys.trainers})

    def start(self, *names: str) -> None:
        """Start some servers, or all."""
        for name in names or NAMES:
            command = [str(binary()), "--config", str(self._config(name))]
            with (self._directory / f"{name}.log").open("ab") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log)
            self._processes[name] = process

    def kill(self, *names: str) -> None:
        """Kill some servers, or all, like a power cut."""
        for name in names or tuple(self._processes):
            process = self._processes.pop(name)
            process.kill()
            process.wait()

    def _config(self, name: str) -> Path:
        return self._directory / f"{name}.conf"


async def leader(js: JetStreamContext, stream: str) -> str:
    """Return the name of the server that leads a stream."""
    cluster = (await js.stream_info(stream)).cluster
    assert cluster is not None
    assert cluster.leader is not None
    return cluster.leader


@contextmanager
def nats_cluster(directory: Path, certificates: Path | None = None) -> Iterator[NatsCluster]:
    """Run a cluster in a directory, with TLS for clients and routes if it has certificates."""
    cluster = NatsCluster(directory, certificates)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()
