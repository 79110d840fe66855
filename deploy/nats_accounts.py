"""EcoLink's NATS accounts and users, and the configuration of a server that uses them.

The account SERVICES owns JetStream and its streams. Each service has an account of its own, which
imports only what deploy/bus_access.py lists, and one user. Trainers share an account, which imports
publishing reports, metrics and log lines, and requesting Control messages. If a client makes up a
reply subject, the subject therefore stays in the client's account.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from deploy.bus_access import (
    BUS_ACCESS,
    EXPORTS,
    SUBSCRIBER,
    operator_subjects,
    subscriber_imports,
    subscriber_subjects,
)
from infrastructure.bus.keys import (
    UNLIMITED,
    KeyKind,
    account_jwt,
    credentials_file,
    new_seed,
    operator_jwt,
    public_key,
    user_jwt,
)
from infrastructure.bus.streams import CONTROL, OPERATOR

FROM_TRAINERS = (
    *("reports.>", "telemetry.>", "evaluations.>", "logs.>"),
    f"$JS.API.DIRECT.GET.{CONTROL}.control.>",
)
"""Subjects of the services' account to which trainers may send requests.

Each trainer may use only the subjects with its own name.
"""

TRAINER_CONNECTIONS = 16_384
"""Connections of all trainers to a server, a quarter of those that it accepts."""

LIMITED = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
LIMITS = dict.fromkeys(LIMITED, UNLIMITED) | {"wildcards": True}

JETSTREAM = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), UNLIMITED)


def _account_seed() -> str:
    return new_seed(KeyKind.ACCOUNT)


class NatsKeys(BaseModel):
    """The seeds of a server's operator and accounts. Those of services follow from `users`."""

    model_config = ConfigDict(frozen=True)

    operator: str = Field(default_factory=lambda: new_seed(KeyKind.OPERATOR))
    system: str = Field(default_factory=_account_seed)
    services: str = Field(default_factory=_account_seed)
    trainers: str = Field(default_factory=_account_seed)
    services_user: str = Field(default_factory=lambda: new_seed(KeyKind.USER))
    """The user that all services shared before version 0.1. It is revoked."""
    users: str = Field(default_factory=lambda: token_hex(32))
    """Secret from which the keys of the services' accounts and of all users are derived."""
    routes: str = Field(default_factory=lambda: token_hex(32))
    """Password of the servers of a cluster for each other."""

    def credentials(self, user: str) -> str:
        """Return the contents of the credentials file of a service, `operator` or `subscriber`.

        Raise KeyError if the service does not use the bus.
        """
        return credentials_file(self.jwt(user), self.user_seed(user))

    def jwt(self, user: str) -> str:
        """Return the JWT of a user, which never expires."""
        seed, issuer = self.user_seed(user), self._derived(KeyKind.ACCOUNT, user)
        if user == OPERATOR:
            return user_jwt(self.services, seed, user, operator_subjects())
        allowed = subscriber_subjects() if user == SUBSCRIBER else BUS_ACCESS[user].allowed
        return user_jwt(issuer, seed, user, allowed)

    def user_seed(self, user: str) -> str:
        """Return the seed of a user's key."""
        return self._derived(KeyKind.USER, user)

    @property
    def accounts(self) -> dict[str, str]:
        """JWT of each account, by public key."""
        services = public_key(self.services)
        shared = public_key(self.services_user)
        trainers = dict(zip(FROM_TRAINERS, FROM_TRAINERS, strict=True))
        return {
            public_key(self.system): self._account(self.system, "SYS", LIMITS),
            services: self._account(
                self.services,
                "SERVICES",
                LIMITS | JETSTREAM,
                exports=list(_exports()),
                revocations={shared: int(time.time())},
            ),
            public_key(self.trainers): self._client(self.trainers, "TRAINERS", trainers),
            **dict(self._service_accounts()),
        }

    def _service_accounts(self) -> Iterator[tuple[str, str]]:
        imported = {name: access.imports for name, access in BUS_ACCESS.items()}
        for name, imports in (imported | {SUBSCRIBER: subscriber_imports()}).items():
            seed = self._derived(KeyKind.ACCOUNT, name)
            yield public_key(seed), self._client(seed, name.upper(), imports)

    def _client(self, seed: str, name: str, subjects: Mapping[str, str]) -> str:
        """Return the JWT of an account that imports subjects, by their names in the account."""
        services = public_key(self.services)
        imports = [_import(services, local, subject) for local, subject in subjects.items()]
        limits = LIMITS | ({"conn": TRAINER_CONNECTIONS} if seed == self.trainers else {})
        return self._account(seed, name, limits, imports=imports)

    def _derived(self, kind: KeyKind, name: str) -> str:
        text = f"{kind.name.lower()} {name}".encode()
        return new_seed(kind, hmac.digest(self.users.encode(), text, "sha256"))

    def _account(self, seed: str, name: str, limits: Mapping[str, object], **claims: object) -> str:
        return account_jwt(self.operator, seed, name, {"limits": dict(limits), **claims})


USERS = (*BUS_ACCESS, OPERATOR, SUBSCRIBER)
"""All users except those of trainers."""


def _exports() -> Iterator[dict[str, Any]]:
    for subject, several in EXPORTS.items():
        kind = {"response_type": "Stream"} if several else {}
        yield {"name": subject, "subject": subject, "type": "service", **kind}


def _import(account: str, local: str, subject: str) -> dict[str, Any]:
    """Return an import. A name that differs refers to the wildcards of the subject by number."""
    found = {"name": local, "subject": subject, "type": "service", "account": account}
    if local == subject:
        return found
    before, *after = local.split("*")
    numbered = (f"${number}{part}" for number, part in enumerate(after, 1))
    return found | {"local_subject": before + "".join(numbered)}


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
