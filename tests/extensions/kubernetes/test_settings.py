"""Settings with which no pod could run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from extensions.kubernetes import EXTENSION
from extensions.kubernetes.cluster import Cluster, NoCluster
from extensions.kubernetes.settings import (
    KubernetesSettings,
    UnusableSettings,
    problems,
    require_usable,
)
from tests.deploy.kubernetes.test_resources import BASE, EXAMPLE, variables

USABLE: dict[str, Any] = {
    "nats_url": "nats://nats.ecolink.svc:4222",
    "artifacts_url": "s3://ecolink",
    "kubernetes_image": "trainer:1",
}


def test_usable_settings_have_no_problem() -> None:
    require_usable(KubernetesSettings(**USABLE))


def test_settings_of_the_manifests_are_known_and_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    named = variables(BASE / "settings.env") | variables(EXAMPLE / "settings.env")
    own = {f"ECOLINK_{name}".upper() for name in EXTENSION.own_settings}
    assert {name for name in named if name.startswith("ECOLINK_KUBERNETES_")} <= own
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    settings = KubernetesSettings()
    assert settings.launcher == "kubernetes"
    require_usable(settings)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kubernetes_image": None}, "ECOLINK_KUBERNETES_IMAGE is not set"),
        ({"kubernetes_namespace": "My_Trainers"}, "ECOLINK_KUBERNETES_NAMESPACE is 'My_Trainers'"),
        ({"artifacts_url": None}, "ECOLINK_ARTIFACTS_URL is 'file:///"),
        ({"nats_url": None}, "ECOLINK_TRAINER_NATS_URL is not set"),
        ({"nats_url": "nats://127.0.0.1:4222"}, "at 127.0.0.1"),
        ({"trainer_nats_url": "nats://localhost:4222"}, "at localhost"),
        ({"nats_url": "nats://[::1]:4222"}, "at ::1"),
    ],
)
def test_a_problem_names_its_setting(changes: dict[str, Any], named: str) -> None:
    (problem,) = problems(KubernetesSettings(**USABLE | changes))
    assert named in problem
    with pytest.raises(UnusableSettings, match=named):
        require_usable(KubernetesSettings(**USABLE | changes))


def test_unreadable_credentials_name_the_file(tmp_path: Path) -> None:
    config = tmp_path / "missing"
    with pytest.raises(NoCluster, match=r"missing.*ECOLINK_KUBERNETES_CONFIG"):
        Cluster(KubernetesSettings(**USABLE, kubernetes_config=config))


def test_outside_of_a_cluster_a_kubeconfig_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(NoCluster, match="service account of this pod"):
        Cluster(KubernetesSettings(**USABLE))
