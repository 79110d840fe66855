"""The capacity of a cluster: GPUs of ready nodes by region and type."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from domain.catalog.catalog import Catalog
from tests.builders.commands import command
from tests.extensions.kubernetes.conftest import OpenLauncher
from tests.extensions.kubernetes.fake_cluster import FakeCluster

L4 = {"nvidia.com/gpu.product": "NVIDIA-L4", "topology.kubernetes.io/region": "eu-west-1"}
H100 = L4 | {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
CPUS = {("local", "cpu"): 2, ("local", "cpu-small"): 1, ("eu-west-1", "cpu"): 3}


def gpus(open_launcher: OpenLauncher, **changes: Any) -> dict[tuple[str, str], int]:
    """Return the capacity without CPU-backed types."""
    capacity = dict(open_launcher(**changes).capacity({}))
    return {place: count for place, count in capacity.items() if not place[1].startswith("cpu")}


def test_gpus_are_counted_by_region_and_type(
    open_launcher: OpenLauncher, cluster: FakeCluster
) -> None:
    cluster.add_node("a", 4, L4)
    cluster.add_node("b", 4, L4)
    cluster.add_node("c", 8, H100)
    cluster.add_node("d", 0, H100)
    assert open_launcher().capacity({}) == CPUS | {
        ("eu-west-1", "l4"): 8,
        ("eu-west-1", "h100"): 8,
    }


def test_one_region_can_have_all_nodes(open_launcher: OpenLauncher, cluster: FakeCluster) -> None:
    cluster.add_node("a", 4, {"nvidia.com/gpu.product": "NVIDIA-L4"})
    assert gpus(open_launcher, kubernetes_region="local") == {("local", "l4"): 4}


def test_other_labels_and_resources_can_name_gpus(
    open_launcher: OpenLauncher, cluster: FakeCluster, catalog: Catalog
) -> None:
    with command():
        l4 = catalog.gpu_types["l4"]
        catalog.offer_gpu_type(
            l4.model_copy(update={"device_names": (*l4.device_names, "nvidia-l4")})
        )
    labels = {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    status = {
        "allocatable": {"example.org/gpu": "2"},
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    cluster.add_node("a", 0, labels, status=status, spec={})
    assert gpus(
        open_launcher,
        kubernetes_region="local",
        kubernetes_gpu_label="cloud.google.com/gke-accelerator",
        kubernetes_gpu_resource="example.org/gpu",
    ) == {("local", "l4"): 2}


READY = [{"type": "Ready", "status": "True"}]


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": {"unschedulable": True}},
        {"spec": {"taints": [{"key": "maintenance", "effect": "NoSchedule"}]}},
        {"spec": {"taints": [{"key": "dedicated", "effect": "NoExecute"}]}},
        {
            "status": {
                "allocatable": {"nvidia.com/gpu": "4"},
                "conditions": [{"type": "Ready", "status": "Unknown"}],
            }
        },
        {"status": {"allocatable": {"nvidia.com/gpu": "4"}}},
        {"status": {"capacity": {"nvidia.com/gpu": "4"}, "conditions": READY}},
    ],
    ids=["cordoned", "tainted", "evacuated", "lost", "new", "broken"],
)
def test_nodes_that_accept_no_pods_do_not_count(
    open_launcher: OpenLauncher, cluster: FakeCluster, changes: dict[str, Any]
) -> None:
    cluster.add_node("a", 4, L4, **changes)
    cluster.add_node("b", 1, L4)
    assert gpus(open_launcher) == {("eu-west-1", "l4"): 1}


def test_the_gpus_of_a_lost_node_count_until_their_type_is_withdrawn(
    open_launcher: OpenLauncher, cluster: FakeCluster, catalog: Catalog
) -> None:
    cluster.add_node("a", 4, L4)
    launcher = open_launcher()
    assert launcher.capacity({})["eu-west-1", "l4"] == 4
    cluster.delete("nodes")
    assert launcher.capacity({})["eu-west-1", "l4"] == 4
    restarted, known = open_launcher(), {("eu-west-1", "l4"): 4}
    assert restarted.capacity(known)["eu-west-1", "l4"] == 4
    with command():
        catalog.withdraw_gpu_type("l4")
    assert launcher.capacity({}) == restarted.capacity(known) == CPUS


def test_a_declared_capacity_limits_the_number(
    open_launcher: OpenLauncher, cluster: FakeCluster, catalog: Catalog
) -> None:
    cluster.add_node("a", 4, L4)
    with command():
        catalog.declare_capacity("eu-west-1", "l4", 3)
    assert gpus(open_launcher) == {("eu-west-1", "l4"): 3}


def test_a_cluster_that_adds_nodes_on_demand_has_the_declared_capacity(
    open_launcher: OpenLauncher, cluster: FakeCluster, catalog: Catalog
) -> None:
    with command():
        catalog.declare_capacity("eu-west-1", "l4", 16)
    assert gpus(open_launcher, kubernetes_capacity="catalog") == {("eu-west-1", "l4"): 16}
    assert cluster.calls == [], "it needs no right to list nodes"


@pytest.mark.parametrize(
    ("labels", "fix"),
    [
        (L4 | {"nvidia.com/gpu.product": "Abacus"}, "gpu-types set NAME --device-name 'Abacus'"),
        (L4 | {"topology.kubernetes.io/region": "mars"}, "ECOLINK_KUBERNETES_REGION"),
    ],
    ids=["device", "region"],
)
def test_unused_gpus_are_reported_once(
    open_launcher: OpenLauncher,
    cluster: FakeCluster,
    caplog: pytest.LogCaptureFixture,
    labels: dict[str, str],
    fix: str,
) -> None:
    cluster.add_node("a", 4, labels)
    cluster.add_node("b", 4, labels)
    launcher = open_launcher()
    with caplog.at_level(logging.WARNING):
        assert launcher.capacity({}) == launcher.capacity({}) == CPUS
    assert caplog.text.count(fix) == 1
