"""The home directory of an embedded stack: its paths, passwords and lock."""

from __future__ import annotations

import fcntl
import hmac
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_urlsafe

from pydantic import BaseModel, ConfigDict, Field

from deploy.database_roles import OPERATOR_ROLE, ROLES, role_of
from deploy.local.errors import StackError
from deploy.nats_accounts import NatsKeys
from infrastructure.settings import Settings

PRIVATE_FOLDERS = ("run", "logs", "pods", "nats", "artifacts", "cache", "compiled")
"""Folders of a home that contain secrets or customer data."""

LOG_BYTES = 10 * 1024**2
LOGS_KEPT = 3


class Passwords(BaseModel):
    """Random passwords of PostgreSQL and serving, the snapshot secret, and the NATS keys.

    They are generated once for each home. The passwords need no escaping in a URL.
    """

    model_config = ConfigDict(frozen=True)

    postgres_owner: str = Field(default_factory=lambda: token_urlsafe(24))
    postgres_services: str = Field(default_factory=lambda: token_urlsafe(24))
    serving: str = Field(default_factory=lambda: token_urlsafe(24))
    snapshots: str = Field(default_factory=lambda: token_urlsafe(24))
    nats: NatsKeys = Field(default_factory=NatsKeys)

    @property
    def database_roles(self) -> dict[str, str]:
        """Password of each database role, derived from a secret that no service receives."""
        return {
            role: hmac.digest(self.postgres_services.encode(), role.encode(), "sha256").hex()
            for role in (*map(role_of, ROLES), OPERATOR_ROLE)
        }


class Home:
    """A home directory and its paths. `root` is absolute."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.secrets = root / "secrets.json"
        self.state = root / "run" / "stack.json"  # the supervisor writes it
        self.postgres = root / "postgres"  # data directory
        self.nats = root / "nats"  # store directory of JetStream
        self.nats_config = root / "run" / "nats.conf"
        self.shared_nats_credentials = root / "run" / "services.creds"  # of earlier versions
        self.pods = root / "pods"  # one folder for each local pod

    @classmethod
    def of(cls, settings: Settings) -> Home:
        """Return the home directory in the settings."""
        return cls(settings.home.expanduser().resolve())

    def nats_credentials(self, user: str) -> Path:
        """Return the credentials file of a NATS user. Its name is that of a service, mostly."""
        return self.root / "run" / f"{user}.creds"

    def log(self, name: str) -> Path:
        """Return the log file of a process."""
        return self.root / "logs" / f"{name}.log"

    def prepare(self) -> None:
        """Create the folders, readable only by their owner, whatever the home's mode is."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in PRIVATE_FOLDERS:
                (self.root / name).mkdir(mode=0o700, exist_ok=True)
                (self.root / name).chmod(0o700)
            self.log("supervisor").touch(mode=0o600)  # the starting process writes first
        except OSError as error:
            raise StackError(
                f"Cannot write to {self.root}: {error.strerror}. Check its permissions, or set "
                "another ECOLINK_HOME."
            ) from error

    def passwords(self) -> Passwords:
        """Return the passwords of this home. Generate and store those that are missing."""
        path = self.secrets
        kept = path.read_text() if path.exists() else "{}"
        passwords = Passwords.model_validate_json(kept)
        if (text := passwords.model_dump_json(indent=1)) != kept:
            write_private(path, text)
        return passwords

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the home for one supervisor. The kernel releases the lock when the process ends."""
        with (self.root / "run" / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackError(
                    f"Another EcoLink supervisor already runs in {self.root}. `ecolink status` "
                    "shows it, and `ecolink down` stops it."
                ) from None
            yield

    def rotate_logs(self) -> None:
        """Copy each large log to a backup, delete the oldest backup, and empty the log.

        Processes keep appending to the same file. If the disk is full, the copy is lost.
        """
        for path in (self.root / "logs").glob("*.log"):
            if path.stat().st_size < LOG_BYTES:
                continue
            for n in range(LOGS_KEPT - 1, 0, -1):
                older = path.with_suffix(f".log.{n}")
                if older.exists():
                    older.rename(path.with_suffix(f".log.{n + 1}"))
            with suppress(OSError):
                shutil.copyfile(path, path.with_suffix(".log.1"))
            os.truncate(path, 0)


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically. Only its owner can read the new file."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
