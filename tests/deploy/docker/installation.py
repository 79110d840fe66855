"""An installation in containers, driven by `docker compose` as an operator would."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.deploy.docker.images import VARIABLES

FOLDER = Path(__file__).parents[3] / "deploy" / "docker"
BUILT = ("nats", "s3", "migrate", "scheduler")
"""Services with a build in the compose file."""

IMAGES = {
    "python": "ECOLINK_PYTHON_IMAGE",
    "nats": "ECOLINK_NATS_IMAGE",
    "s3": "ECOLINK_S3_IMAGE",
    "postgres": "ECOLINK_POSTGRES_IMAGE",
}
"""Variables of the compose file by the names of the images."""

UP_SECONDS = 600


class CommandFailed(AssertionError):
    """A command of Docker failed."""


def docker_answers() -> bool:
    """Return True if a Docker engine with compose is available."""
    try:
        for command in (["docker", "info"], ["docker", "compose", "version"]):
            if subprocess.run(command, capture_output=True, timeout=20).returncode != 0:
                return False
    except (OSError, subprocess.TimeoutExpired):
        return False
    return True


@dataclass(frozen=True)
class Installation:
    """One compose project with its secrets and settings in a folder."""

    folder: Path
    port: int
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings without secrets, for the file ecolink.env."""

    @property
    def url(self) -> str:
        """URL of the gateway on the host."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def project(self) -> str:
        """Name of the compose project, which no other installation of this machine has."""
        return f"ecolink-test-{self.port}"

    @property
    def secrets(self) -> Path:
        """Directory of the secrets."""
        return self.folder / "secrets"

    def prepare(self) -> None:
        """Build the images and write the secrets, as docs/operate/containers.md says."""
        self.secrets.mkdir(mode=0o700, parents=True)
        lines = [f"{name}={value}\n" for name, value in self.settings.items()]
        (self.folder / "ecolink.env").write_text("".join(lines))
        (self.folder / "build.yaml").write_text(json.dumps(_build()))
        self.compose("build", seconds=1800)
        self.compose("run", "--rm", "--user", f"{os.getuid()}:{os.getgid()}", "init")

    def compose(self, *arguments: str, seconds: float = UP_SECONDS) -> str:
        """Run `docker compose` and return its standard output. Raise CommandFailed."""
        files = ("--file", str(FOLDER / "compose.yaml"), "--file", str(self.folder / "build.yaml"))
        command = ["docker", "compose", "--project-name", self.project, *files, *arguments]
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=os.environ | self._environment(),
            stdin=subprocess.DEVNULL,
        )
        if ran.returncode != 0:
            raise CommandFailed(f"{' '.join(command)}\n{ran.stdout}\n{ran.stderr}")
        return ran.stdout

    def up(self, *services: str) -> float:
        """Start services (none: all), and return the seconds until their containers are healthy.

        Raise CommandFailed with the state and the last lines of each container.
        """
        began = time.monotonic()
        try:
            self.compose("up", "--detach", "--no-build", "--wait", *services)
        except (CommandFailed, subprocess.TimeoutExpired) as error:
            state, logs = self.compose("ps", "--all"), self.compose("logs", "--tail", "20")
            raise CommandFailed(f"{error}\n{state}\n{logs}") from error
        return time.monotonic() - began

    def restart_killed(self, service: str) -> float:
        """Start a killed container, and return the seconds until it is healthy."""
        began = time.monotonic()
        self.compose("up", "--detach", "--no-build", "--no-deps", "--wait", service)
        return time.monotonic() - began

    def operator(self, *arguments: str, mounts: Mapping[Path, str] | None = None) -> str:
        """Run an operator command, with read-only folders of the host. Return its output."""
        volumes = [f"--volume={host}:{inside}:ro" for host, inside in (mounts or {}).items()]
        return self.compose("run", "--rm", "-T", *volumes, "operator", *arguments)

    def backup(self, *arguments: str, mounts: Mapping[Path, str]) -> str:
        """Run a command of `ecolink backup`, with folders of the host. Return its output."""
        volumes = [f"--volume={host}:{inside}" for host, inside in mounts.items()]
        return self.compose("run", "--rm", "-T", *volumes, "backup", *arguments)

    def seal_key(self) -> str:
        """Return the public key of the seals."""
        return self.compose("exec", "-T", "sealer", "ecolink", "audit", "key").split()[-1]

    def account(self, name: str, dollars: str = "25.00") -> str:
        """Create an account with credit, and return an API key of it."""
        self.operator("accounts", "create", name)
        self.operator("accounts", "credit", name, dollars, "--reference", "test")
        return self.operator("accounts", "keys", "issue", name).split()[-1]

    def verify_log(self, *options: str) -> dict[str, Any]:
        """Return the report of `ecolink audit verify`. Raise CommandFailed if anything differs."""
        given = ("--json", "--public-key", self.seal_key(), *options)
        return json.loads(self.operator("audit", "verify", *given))

    def state(self, service: str) -> str:
        """Return the state of a service's container, such as `running` or `exited`."""
        shown = self.compose("ps", "--all", "--format", "json", service)
        return json.loads(shown.splitlines()[0])["State"]

    def container(self, service: str) -> str:
        """Return the ID of a service's container."""
        return self.compose("ps", "--all", "--quiet", service).strip()

    def remove(self) -> None:
        """Remove the containers, networks and volumes."""
        down = ("down", "--volumes", "--remove-orphans", "--timeout", "20")
        self.compose("--profile", "tools", *down)

    def _environment(self) -> dict[str, str]:
        images = {
            IMAGES[name]: os.environ[variable]
            for name, variable in VARIABLES.items()
            if variable in os.environ
        }
        torch = os.environ.get("ECOLINK_TEST_TORCH")
        network = os.environ.get("ECOLINK_TEST_BUILD_NETWORK")
        return (
            images
            | {
                "ECOLINK_SECRETS": str(self.secrets),
                "ECOLINK_ENV_FILE": str(self.folder / "ecolink.env"),
                "ECOLINK_PUBLISH": f"127.0.0.1:{self.port}",
            }
            | ({"ECOLINK_TORCH": torch} if torch else {})
            | ({"ECOLINK_BUILD_NETWORK": network} if network else {})
        )


def _build() -> dict[str, Any]:
    """Return the part of a compose file that lets a build trust certificates of this machine."""
    authority = os.environ.get("ECOLINK_TEST_CA")
    wheels = os.environ.get("ECOLINK_TEST_WHEELS")
    build: dict[str, Any] = {}
    if authority:
        build["secrets"] = ["ca"]
    if wheels:
        build["additional_contexts"] = {"wheels": wheels}
    found: dict[str, Any] = {"services": {name: {"build": build} for name in BUILT if build}}
    if authority:
        found["secrets"] = {"ca": {"file": authority}}
    return found


@contextmanager
def installed(
    folder: Path, port: int, settings: Mapping[str, str] | None = None
) -> Iterator[Installation]:
    """Build, start and in the end remove an installation."""
    installation = Installation(folder, port, settings or {})
    try:
        installation.prepare()
        yield installation
    finally:
        installation.remove()
