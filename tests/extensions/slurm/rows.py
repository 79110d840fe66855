"""Settings of the Slurm launcher for a fake and for a real cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.extensions.slurm.cluster import (
    GPUS,
    PARTITION,
    USER,
    SlurmCluster,
    missing,
    slurm_cluster,
)
from tests.extensions.slurm.fake import FakeSlurm, fake_slurm

ROOT = Path(__file__).parents[3]


def slurm_settings(cluster: SlurmCluster | FakeSlurm) -> dict[str, Any]:
    """Return the settings of a cluster, whose nodes import EcoLink from this checkout."""
    return {
        "launcher": "slurm",
        "slurm_url": cluster.url,
        "slurm_user": USER,
        "slurm_token_file": cluster.token_file,
        "slurm_regions": {"local": PARTITION},
        "slurm_directory": cluster.directory,
        "slurm_node_home": cluster.directory.with_name("node-home"),
        "slurm_prologue": f"export PYTHONPATH={ROOT}",
    }


def of_row(cluster: SlurmCluster | FakeSlurm) -> dict[str, Any]:
    """Return the settings of a cluster for a row that names its launcher itself."""
    settings = slurm_settings(cluster)
    del settings["launcher"]
    return settings


@contextmanager
def fake_row(folder: Path) -> Iterator[dict[str, Any]]:
    """Run a fake cluster. Return its settings."""
    with fake_slurm(folder) as slurm:
        yield of_row(slurm)


@contextmanager
def real_cluster(*, own_processes: bool = True, gpus: int = GPUS) -> Iterator[SlurmCluster]:
    """Run a real cluster in a folder with a short path. Skip the test if none can run here."""
    if reason := missing():
        pytest.skip(reason)
    with TemporaryDirectory(prefix="slurm") as folder:
        root = Path(folder)
        root.chmod(0o755)
        with slurm_cluster(root / "c", own_processes=own_processes, gpus=gpus) as cluster:
            yield cluster


@contextmanager
def real_row(folder: Path) -> Iterator[dict[str, Any]]:
    """Run a real cluster whose processes a test can see. Return its settings."""
    with real_cluster(own_processes=False) as cluster:
        yield of_row(cluster)
