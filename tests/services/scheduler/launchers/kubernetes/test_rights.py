"""The rights of the scheduler in deploy/kubernetes are exactly those that the launcher uses."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.scheduler.launchers.kubernetes import launcher as module
from services.scheduler.launchers.kubernetes.launcher import KubernetesLauncher
from services.scheduler.launchers.launcher import PodPending
from tests.services.scheduler.launchers.kubernetes.fake_cluster import NAMESPACE, FakeCluster
from tests.services.scheduler.launchers.kubernetes.test_launcher import NAME, spec

RBAC = Path(__file__).parents[5] / "deploy" / "kubernetes" / "base" / "rbac.yaml"


def rights(kind: str) -> Iterator[tuple[str, str, str]]:
    """Return the (verb, resource, API group) that a Role or ClusterRole grants."""
    for resource in yaml.safe_load_all(RBAC.read_text()):
        if resource["kind"] != kind:
            continue
        assert resource["metadata"].get("namespace") in (None, NAMESPACE)
        for rule in resource["rules"]:
            yield from product(rule["verbs"], rule["resources"], rule["apiGroups"])


def use_everything(
    launcher: KubernetesLauncher, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Make every call of which the launcher is capable."""
    launcher.capacity()
    with pytest.raises(PodPending):
        launcher.launch(spec())
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.0)
    with pytest.raises(PodPending):
        launcher.launch(spec())
    cluster.start()
    launcher.launch(spec())
    ask: list[Any] = [launcher.poll, launcher.kept_report, launcher.stop, launcher.kill]
    for call in ask:
        call(NAME)
    launcher.log(NAME, 100)
    launcher.pods()
    launcher.remove(NAME)


def test_the_rights_are_exactly_those_of_the_calls(
    launcher: KubernetesLauncher, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_everything(launcher, cluster, monkeypatch)
    granted = [*rights("Role"), *rights("ClusterRole")]
    assert len(granted) == len(set(granted))
    assert set(cluster.calls) == set(granted)
    assert {resource for _, resource, _ in rights("ClusterRole")} == {"nodes"}


def test_every_call_of_the_api_is_covered() -> None:
    """`use_everything` would miss a new call, so compare it with the methods of Cluster."""
    methods = {
        name
        for name, value in vars(module.Cluster).items()
        if callable(value) and not name.startswith("_")
    }
    assert methods == {
        *("jobs", "pods", "nodes", "create_job", "create_secret", "patch_secret", "patch_job"),
        *("patch_pod", "delete_job", "kill_pod", "log_tail"),
    }
