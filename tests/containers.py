"""Test servers in containers, configured like the embedded ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from deploy.database_roles import OPERATOR_ROLE
from deploy.local import postgres
from deploy.local.home import Passwords, write_private
from deploy.migrate import migrate
from deploy.nats_accounts import configuration
from infrastructure.settings import Settings
from tests.bus_administrator import administrator_credentials
from tests.deploy.docker.images import image_of

NATS_PORT = 4222

WANTED = "ECOLINK_TEST_CONTAINERS"
"""Environment variable that makes all tests use servers in containers, if it is set."""

MEMORY = "/memory"
"""Mount point in memory, where the database is. The embedded server has its data in memory, too."""

CONFIGURATION = {name: postgres.CONFIGURATION[name] for name in ("max_connections", "timezone")}


@contextmanager
def containers(settings: Settings) -> Iterator[Settings]:
    """Run PostgreSQL with a migrated database, and NATS with JetStream and both accounts."""
    passwords = Passwords()
    database = (
        PostgresContainer(
            image_of("postgres", "postgres:18"),
            username=postgres.OWNER,
            password=passwords.postgres_owner,
            driver=None,
        )
        .with_tmpfs_mount(MEMORY)
        .with_env("PGDATA", f"{MEMORY}/data")
        .with_env("POSTGRES_INITDB_ARGS", " ".join(postgres.DATA_OPTIONS))
        .with_command(" ".join(f"--{name}={value}" for name, value in CONFIGURATION.items()))
    )
    config = configuration(passwords.nats, Path("/data"), NATS_PORT, host="0.0.0.0")
    settings.home.mkdir(parents=True, exist_ok=True)
    write_private(settings.home / "secrets.json", passwords.model_dump_json())
    credentials = settings.home / "administrator.creds"
    credentials.write_text(administrator_credentials(passwords.nats))
    bus = (
        DockerContainer(image_of("nats", "nats:2.15"))
        .with_copy_into_container(config.encode(), "/etc/nats/ecolink.conf")
        .with_command("--config /etc/nats/ecolink.conf")
        .with_exposed_ports(NATS_PORT)
        .waiting_for(LogMessageWaitStrategy("Server is ready"))
    )
    with database, bus:
        owner = database.get_connection_url().rpartition("/")[0]
        postgres.provision(f"{owner}/postgres", passwords.database_roles)
        address = owner.rpartition("@")[2]
        services = f"{OPERATOR_ROLE}:{passwords.database_roles[OPERATOR_ROLE]}@{address}"
        server = f"{bus.get_container_host_ip()}:{bus.get_exposed_port(NATS_PORT)}"
        filled = settings.model_copy(
            update={
                "snapshot_secret": passwords.snapshots,
                "owner_database_url": f"{owner}/{postgres.DATABASE}",
                "database_url": f"postgresql://{services}/{postgres.DATABASE}",
                "nats_url": f"nats://{server}",
                "nats_credentials": credentials,
                "nats_trainer_seed": passwords.nats.trainers,
            }
        )
        migrate(filled)
        yield filled
