"""`ecolink nats-config`, which writes the files that an external NATS server needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from deploy.local.home import write_private
from deploy.nats_accounts import (
    CLUSTER_PORT,
    USERS,
    Certificates,
    ClusterNode,
    NatsKeys,
    configuration,
)
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import fail

commands = typer.Typer()

NODE_NAME = re.compile(r"[A-Za-z0-9_-]+")


@commands.command("nats-config")
def write_nats_config(
    directory: Annotated[
        Path,
        typer.Argument(help="Directory for the files. EcoLink creates it if it does not exist."),
    ],
    store: Annotated[Path, typer.Option(help="JetStream directory on the server.")] = Path(
        "/var/lib/nats"
    ),
    host: Annotated[str, typer.Option(help="Address of the server.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the server.")] = 4222,
    node: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=HOST",
            help="Server of a cluster. Repeat the option for each of three or five servers.",
        ),
    ] = None,
    cluster_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port between the servers of a cluster.")
    ] = CLUSTER_PORT,
    tls: Annotated[
        Path | None,
        typer.Option(
            help="Directory on the servers with server.pem, server-key.pem and ca.pem, for TLS."
        ),
    ] = None,
) -> None:
    """Write the configuration of external NATS servers with EcoLink's accounts.

    Without --node, the command writes nats.conf for one server. With it, it writes nats-NAME.conf
    for each server of a cluster. EcoLink generates the keys once and stores them in
    DIRECTORY/keys.json, and the credentials of each process in DIRECTORY/users. The command prints
    the settings that EcoLink needs.
    """
    nodes = _nodes(node or [])
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "keys.json"
    keys = NatsKeys.model_validate_json(path.read_text()) if path.exists() else NatsKeys()
    write_private(path, keys.model_dump_json(indent=1))
    certificates = None if tls is None else Certificates(tls)
    peers = tuple(f"{address}:{cluster_port}" for address in nodes.values())
    files: list[str] = []
    for name, address in (nodes or {"": host}).items():
        member = ClusterNode(name, peers, cluster_port) if name else None
        text = configuration(keys, store, port, address, node=member, certificates=certificates)
        files.append(f"nats-{name}.conf" if name else "nats.conf")
        write_private(directory / files[-1], text)
    users = directory.resolve() / "users"
    users.mkdir(mode=0o700, exist_ok=True)
    for user in USERS:
        write_private(users / f"{user}.creds", keys.credentials(user))
    scheme = "nats" if tls is None else "tls"
    addresses = nodes.values() or [host]
    for file in files:
        print(f"# Start the server with: nats-server --config {directory.resolve() / file}")
    print(f"ECOLINK_NATS_URL={','.join(f'{scheme}://{each}:{port}' for each in addresses)}")
    if nodes:
        print("ECOLINK_NATS_REPLICAS=3")
    print("# A directory with a file for each process. Elsewhere, set the file of the process:")
    print(f"ECOLINK_NATS_CREDENTIALS={users}")
    print("# Set this only for the scheduler:")
    print(f"ECOLINK_NATS_TRAINER_SEED={keys.trainers}")


def _nodes(given: list[str]) -> dict[str, str]:
    """Return the address of each server of a cluster by its name. Exit if they are invalid."""
    nodes: dict[str, str] = {}
    for each in given:
        name, separator, address = each.partition("=")
        if not (NODE_NAME.fullmatch(name) and separator and address) or name in nodes:
            example = "Use, for example, --node n1=10.0.0.1."
            fail(f"--node {each!r} is not a new NAME=HOST. {example}", ExitCode.USAGE)
        nodes[name] = address
    if len(nodes) not in (0, 3, 5):
        fail(f"--node was given {len(nodes)} times. Give three or five servers.", ExitCode.USAGE)
    return nodes
