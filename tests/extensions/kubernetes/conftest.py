"""The Kubernetes launcher with a fake cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import Region
from extensions.kubernetes import cluster as cluster_module
from extensions.kubernetes import launcher as module
from extensions.kubernetes.launcher import KubernetesLauncher
from extensions.kubernetes.settings import KubernetesSettings
from tests.builders.commands import FixedClock, command
from tests.extensions.kubernetes.fake_cluster import FakeCluster
from tests.services.scheduler.launchers.test_launcher import shipped_catalog

OpenLauncher = Callable[..., KubernetesLauncher]


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def cluster(tmp_path: Path, clock: FixedClock) -> Iterator[FakeCluster]:
    with FakeCluster(tmp_path, clock.now, runs_processes=False).running() as cluster:
        yield cluster


@pytest.fixture
def catalog() -> Catalog:
    """The catalog of a new platform, with a region of a cluster."""
    catalog = shipped_catalog()
    with command():
        catalog.offer_region(Region(name="eu-west-1", title="Ireland", capacity={"cpu": 3}))
    return catalog


@pytest.fixture
def settings(cluster: FakeCluster, tmp_path: Path) -> KubernetesSettings:
    """Settings under which each poll reads the cluster."""
    return KubernetesSettings(
        home=tmp_path,
        launcher="kubernetes",
        nats_url="nats://services:secret@127.0.0.1:4222",
        trainer_nats_url="tls://nats.example.org:4222",
        database_url="postgresql://nobody:secret@127.0.0.1/x",
        artifacts_url="memory:///",
        grace_seconds=20,
        heartbeat_seconds=1e-6,
        kubernetes_config=cluster.config,
        kubernetes_image="registry.example.org/ecolink-trainer:1",
    )


@pytest.fixture
def open_launcher(
    settings: KubernetesSettings,
    clock: FixedClock,
    catalog: Catalog,
    monkeypatch: pytest.MonkeyPatch,
) -> OpenLauncher:
    """Opens the launcher, with changed settings."""
    monkeypatch.setattr(module, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(cluster_module, "READ_SECONDS", 120.0)  # the machine may be busy

    def open_launcher(**changes: Any) -> KubernetesLauncher:
        return KubernetesLauncher(settings.model_copy(update=changes), clock, lambda: catalog)

    return open_launcher


@pytest.fixture
def launcher(open_launcher: OpenLauncher) -> KubernetesLauncher:
    return open_launcher()
