"""Checks of the settings of the Slurm launcher, for `ecolink doctor`."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from extensions.slurm.launcher import Cluster
from extensions.slurm.settings import SlurmSettings
from infrastructure.checks.machine import Check, Level
from services.scheduler.launchers.launcher import LauncherUnavailable

NAME = "slurm"


def slurm_checks(settings: SlurmSettings) -> Iterator[Check]:
    """Check the cluster, its partitions, the token, the shared directory and the addresses."""
    try:
        cluster = Cluster.of(settings)
    except ValueError as missing:
        yield Check(NAME, Level.FAILED, str(missing))
        return
    yield _answers(cluster, settings.slurm_regions)
    yield _token(cluster.token_file)
    yield _directory(cluster)
    yield _user(cluster.user)
    yield from _addresses(settings)


def _answers(cluster: Cluster, regions: Mapping[str, str]) -> Check:
    try:
        with closing(cluster.open()) as rest:
            rest.ping()
            partitions, nodes = rest.partitions(), rest.nodes()
    except LauncherUnavailable as failure:
        return Check(NAME, Level.FAILED, str(failure))
    for region, partition in regions.items():
        if partition not in partitions:
            known = ", ".join(sorted(partitions))
            fix = f"Slurm has {known}. Change ECOLINK_SLURM_REGIONS."
            text = f"Partition {partition!r} of region {region!r} does not exist. {fix}"
            return Check(NAME, Level.FAILED, text)
    named = set(regions.values())
    usable = [each for each in nodes if each.usable and named.intersection(each.partitions)]
    gpus = sum(sum(each.gpus.values()) for each in usable)
    text = f"{cluster.url}, {len(usable)} usable nodes with {gpus} GPUs"
    if gpus == 0:
        fix = "Check their state and gres with `sinfo -N -o '%N %T %G'`."
        return Check(NAME, Level.WARNING, f"{text}. {fix}")
    return Check(NAME, Level.OK, text)


def _token(path: Path) -> Check:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return Check("slurm token", Level.FAILED, f"Cannot read {path}: {error.strerror}.")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        text = f"Other users can read {path}. Run `chmod go= {path}`."
        return Check("slurm token", Level.FAILED, text)
    return Check("slurm token", Level.OK, str(path))


def _directory(cluster: Cluster) -> Check:
    path = cluster.directory
    if not path.is_dir():
        text = f"{path} does not exist. Mount it here and on all nodes."
        return Check("slurm directory", Level.FAILED, text)
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        text = f"{path} is not writable. Change its owner to {cluster.user}."
        return Check("slurm directory", Level.FAILED, text)
    return Check("slurm directory", Level.OK, f"{path}. All nodes need it under this path.")


def _user(name: str) -> Check:
    """Check that trainers can read the specs, which only the scheduler's user can."""
    try:
        user_id = pwd.getpwnam(name).pw_uid
    except KeyError:
        text = f"This machine has no user {name!r}. Add it with the ID that it has on the nodes."
        return Check("slurm user", Level.WARNING, text)
    if user_id != os.geteuid():
        text = f"The jobs run as {name} ({user_id}), but this process as {os.geteuid()}."
        return Check("slurm user", Level.FAILED, f"{text} Run the scheduler as {name}.")
    return Check("slurm user", Level.OK, f"{name} ({user_id})")


def _addresses(settings: SlurmSettings) -> Iterator[Check]:
    url = settings.trainer_nats_url or settings.nats_url
    if url is None or _is_loopback(urlsplit(url).hostname):
        shown = "the embedded NATS server" if url is None else f"NATS at {urlsplit(url).hostname}"
        fix = "Set ECOLINK_TRAINER_NATS_URL to an address of this machine in the cluster's network."
        yield Check("slurm network", Level.FAILED, f"Nodes cannot reach {shown}. {fix}")
    else:
        yield Check("slurm network", Level.OK, f"Nodes use NATS at {urlsplit(url).hostname}.")
    if settings.artifacts.startswith("file:"):
        text = f"All nodes need {urlsplit(settings.artifacts).path} under this path."
        yield Check("slurm artifacts", Level.WARNING, f"{text} Or set ECOLINK_ARTIFACTS_URL to S3.")


def _is_loopback(host: str | None) -> bool:
    if host is None or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
