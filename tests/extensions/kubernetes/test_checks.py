"""The checks of `ecolink doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extensions.kubernetes.settings import KubernetesSettings
from infrastructure import extras
from infrastructure.checks.machine import Check, Level
from infrastructure.extensions import selected
from infrastructure.extras import MissingExtra
from services.scheduler.launchers.registry import launcher_checks, open_launcher
from tests.builders.commands import FixedClock
from tests.extensions.kubernetes.fake_cluster import FakeCluster
from tests.services.scheduler.launchers.test_launcher import shipped_catalog


def only(settings: KubernetesSettings, **changes: Any) -> Check:
    (check,) = launcher_checks(settings.model_copy(update=changes))
    return check


def test_a_cluster_that_answers_is_ok(settings: KubernetesSettings, cluster: FakeCluster) -> None:
    cluster.add_node("a", 1, {})
    check = only(settings)
    assert check.level is Level.OK
    assert "1 nodes" in check.text


def test_the_declared_capacity_needs_no_right_to_list_nodes(
    settings: KubernetesSettings, cluster: FakeCluster
) -> None:
    cluster.refusals["list", "nodes"] = 403, "nodes is forbidden"
    assert only(settings, kubernetes_capacity="catalog").level is Level.OK
    check = only(settings)
    assert check.level is Level.FAILED
    assert "rbac.yaml" in check.text


def test_each_problem_fails(
    settings: KubernetesSettings, cluster: FakeCluster, tmp_path: Path
) -> None:
    assert "ECOLINK_KUBERNETES_IMAGE" in only(settings, kubernetes_image=None).text
    assert "missing" in only(settings, kubernetes_config=tmp_path / "missing").text
    cluster.status = 503
    check = only(settings)
    assert check.level is Level.FAILED
    assert "ECOLINK_KUBERNETES_CONFIG" in check.text
    assert "'abacus'" in only(settings, launcher="abacus").text


@pytest.fixture
def without_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(extras, "installed_version", lambda _: None)
    selected.cache_clear()
    yield
    selected.cache_clear()


@pytest.mark.usefixtures("without_client")
def test_a_missing_client_names_the_extra(settings: KubernetesSettings) -> None:
    check = only(settings)
    assert check.level is Level.FAILED
    assert "ecolink[kubernetes]" in check.text
    with pytest.raises(MissingExtra):
        open_launcher(settings, FixedClock(), shipped_catalog)
