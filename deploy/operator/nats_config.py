"""`ecolink nats-config`, which writes the files that an external NATS server needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.local.home import write_private
from deploy.nats_accounts import NatsKeys, configuration

commands = typer.Typer()


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
) -> None:
    """Write the configuration of an external NATS server with EcoLink's accounts.

    EcoLink generates the keys once and stores them in DIRECTORY/keys.json. The command prints the
    settings that EcoLink needs.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "keys.json"
    keys = NatsKeys.model_validate_json(path.read_text()) if path.exists() else NatsKeys()
    write_private(path, keys.model_dump_json(indent=1))
    write_private(directory / "nats.conf", configuration(keys, store, port, host))
    credentials = directory.resolve() / "services.creds"
    write_private(credentials, keys.services_credentials)
    print(f"# Start the server with: nats-server --config {directory.resolve() / 'nats.conf'}")
    print(f"ECOLINK_NATS_URL=nats://{host}:{port}")
    print(f"ECOLINK_NATS_CREDENTIALS={credentials}")
    print("# Set this only for the scheduler:")
    print(f"ECOLINK_NATS_TRAINER_SEED={keys.trainers}")
