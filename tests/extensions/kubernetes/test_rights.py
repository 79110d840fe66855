"""The rights in deploy/kubernetes are exactly those that the launcher and its checks use."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from extensions.kubernetes import launcher as module
from extensions.kubernetes.launcher import KubernetesLauncher
from extensions.kubernetes.settings import KubernetesSettings
from infrastructure.checks.machine import Level
from services.scheduler.launchers.launcher import PodPending
from services.scheduler.launchers.registry import launcher_checks
from tests.extensions.kubernetes.fake_cluster import NAMESPACE, FakeCluster
from tests.extensions.kubernetes.test_launcher import NAME, spec

RBAC = Path(__file__).parents[3] / "deploy" / "kubernetes" / "base" / "rbac.yaml"


def rights(account: str) -> Iterator[tuple[str, str, str]]:
    """Return the (verb, resource, API group) that a service account has."""
    resources = list(yaml.safe_load_all(RBAC.read_text()))
    roles = {
        (each["kind"], each["metadata"]["name"]): each for each in resources if "rules" in each
    }
    for binding in (each for each in resources if "roleRef" in each):
        if account not in [subject["name"] for subject in binding["subjects"]]:
            continue
        role = roles[binding["roleRef"]["kind"], binding["roleRef"]["name"]]
        assert role["metadata"].get("namespace") in (None, NAMESPACE)
        of_the_cluster = role["kind"] == "ClusterRole"
        for rule in role["rules"]:
            assert (rule["resources"] == ["nodes"]) is of_the_cluster
            yield from product(rule["verbs"], rule["resources"], rule["apiGroups"])


def use_everything(
    launcher: KubernetesLauncher, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Make every call of which the launcher is capable."""
    launcher.capacity({})
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
    granted = list(rights("ecolink-scheduler"))
    assert len(granted) == len(set(granted))
    assert set(cluster.calls) == set(granted)


def test_operators_have_exactly_the_rights_of_the_checks(
    settings: KubernetesSettings, cluster: FakeCluster
) -> None:
    assert [each.level for each in launcher_checks(settings)] == [Level.OK]
    assert sorted(cluster.calls) == sorted(rights("ecolink-operator"))


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
