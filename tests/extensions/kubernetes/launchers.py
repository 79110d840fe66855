"""The row of the conformance tests of launchers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from extensions.kubernetes.settings import KubernetesSettings
from tests.builders.commands import FixedClock
from tests.extensions.kubernetes.fake_cluster import FakeCluster
from tests.services.scheduler.launchers.rows import Row


@contextmanager
def cluster(directory: Path) -> Iterator[Mapping[str, Any]]:
    """Run a cluster whose pods are processes of this machine."""
    fake = FakeCluster(directory, FixedClock().now, runs_processes=True)
    with fake.running():
        yield {"kubernetes_config": fake.config}


ROWS = {
    "kubernetes": Row(
        "kubernetes",
        {
            "kubernetes_image": "trainer:1",
            "trainer_nats_url": "nats://nats.example.org:4222",
            "artifacts_url": "memory:///",
            "heartbeat_seconds": 0.01,
        },
        KubernetesSettings,
        infrastructure=cluster,
    )
}
