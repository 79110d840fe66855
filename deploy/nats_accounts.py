"""EcoLink's NATS accounts, and the configuration of a server that uses them.

The services' account owns JetStream and its streams. Trainers have a separate account. It imports
only what they need: publishing reports, metrics and log lines, and requesting Control messages. If
a trainer makes up a reply subject, the subject therefore stays in the trainers' account.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from infrastructure.bus import CONTROL
from infrastructure.nats_keys import (
    UNLIMITED,
    KeyKind,
    account_jwt,
    credentials_file,
    new_seed,
    operator_jwt,
    public_key,
    user_jwt,
)

FROM_TRAINERS = (
    *("reports.>", "telemetry.>", "evaluations.>", "logs.>"),
    f"$JS.API.DIRECT.GET.{CONTROL}.control.>",
)
"""Subjects of the services' account to which trainers may send requests.

Each trainer may use only the subjects with its own name.
"""

LIMITED = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
LIMITS = dict.fromkeys(LIMITED, UNLIMITED) | {"wildcards": True}

JETSTREAM = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), UNLIMITED)


def _account_seed() -> str:
    return new_seed(KeyKind.ACCOUNT)


class NatsKeys(BaseModel):
    """The seeds of a server's operator, its accounts and the services' user."""

    model_config = ConfigDict(frozen=True)

    operator: str = Field(default_factory=lambda: new_seed(KeyKind.OPERATOR))
    system: str = Field(default_factory=_account_seed)
    services: str = Field(default_factory=_account_seed)
    trainers: str = Field(default_factory=_account_seed)
    services_user: str = Field(default_factory=lambda: new_seed(KeyKind.USER))
    routes: str = Field(default_factory=lambda: token_hex(32))
    """Password of the servers of a cluster for each other."""

    @property
    def services_jwt(self) -> str:
        """JWT of the services' user, who may do everything in the services' account."""
        return user_jwt(self.services, self.services_user, "services")

    @property
    def services_credentials(self) -> str:
        """Contents of the services' credentials file."""
        return credentials_file(self.services_jwt, self.services_user)

    @property
    def accounts(self) -> dict[str, str]:
        """JWT of each account, by public key."""
        services = public_key(self.services)
        exports = [
            {"name": subject, "subject": subject, "type": "service"} for subject in FROM_TRAINERS
        ]
        imports = [each | {"account": services} for each in exports]
        return {
            public_key(self.system): self._account(self.system, "SYS", LIMITS),
            services: self._account(self.services, "SERVICES", LIMITS | JETSTREAM, exports=exports),
            public_key(self.trainers): self._account(
                self.trainers, "TRAINERS", LIMITS, imports=imports
            ),
        }

    def _account(self, seed: str, name: str, limits: Mapping[str, object], **claims: object) -> str:
        return account_jwt(self.operator, seed, name, {"limits": dict(limits), **claims})


CLUSTER = "ecolink"
CLUSTER_PORT = 6222


@dataclass(frozen=True)
class ClusterNode:
    """A server of a cluster. `peers` are the addresses of all its servers, as host:port."""

    name: str
    peers: tuple[str, ...]
    port: int = CLUSTER_PORT


@dataclass(frozen=True)
class Certificates:
    """A directory on the server with `server.pem`, `server-key.pem` and `ca.pem`."""

    directory: Path

    @property
    def for_clients(self) -> dict[str, Any]:
        """Configuration of TLS for clients, which authenticate with their credentials."""
        return {
            "cert_file": str(self.directory / "server.pem"),
            "key_file": str(self.directory / "server-key.pem"),
        }

    @property
    def for_peers(self) -> dict[str, Any]:
        """Configuration of TLS between servers, each of which verifies the other."""
        return self.for_clients | {"ca_file": str(self.directory / "ca.pem"), "verify": True}


def configuration(
    keys: NatsKeys,
    store: Path,
    port: int,
    host: str = "127.0.0.1",
    *,
    node: ClusterNode | None = None,
    certificates: Certificates | None = None,
) -> str:
    """Return the server's configuration file as JSON, which is a subset of its format."""
    settings: dict[str, Any] = {
        "server_name": "ecolink",
        "host": host,
        "port": port,
        "max_payload": 8 * 1024**2,
        "jetstream": {
            "store_dir": str(store),
            # By default, the server flushes every two minutes and can lose acknowledged messages.
            "sync_interval": "always",
            # The limits of the streams bound the disk use. On a small disk, the default rejects
            # them.
            "max_file_store": 64 * 1024**3,
        },
        "operator": operator_jwt(keys.operator, public_key(keys.system)),
        "resolver": "MEMORY",
        "resolver_preload": keys.accounts,
    }
    if certificates is not None:
        settings["tls"] = certificates.for_clients
    if node is not None:
        settings |= {"server_name": node.name, "cluster": _cluster(keys, node, host, certificates)}
    return json.dumps(settings, indent=1)


def _cluster(
    keys: NatsKeys, node: ClusterNode, host: str, certificates: Certificates | None
) -> dict[str, Any]:
    """Return the connections of a server to its peers.

    A peer can act for every account, so peers need a password.
    """
    return {
        "name": CLUSTER,
        "host": host,
        "port": node.port,
        "authorization": {"user": CLUSTER, "password": keys.routes},
        "routes": [f"nats://{CLUSTER}:{keys.routes}@{peer}" for peer in node.peers],
        # Clients know all servers from their URL, but may not reach the addresses of the cluster.
        "no_advertise": True,
        **({} if certificates is None else {"tls": certificates.for_peers}),
    }
