"""The Jobs and Secrets, compared with the published schemas of several Kubernetes versions."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from domain.catalog.catalog import Catalog
from extensions.kubernetes import manifests
from extensions.kubernetes.settings import KubernetesSettings
from infrastructure.training.reports import SegmentSpec
from services.scheduler.launchers.launcher import TRAINER, PodName
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.kubernetes_schemas import validate
from tests.services.scheduler.launchers.test_launcher import shipped_catalog
from tests.services.scheduler.launchers.test_launcher import spec as example

OLDEST, USUAL, NEWEST = "1.30", "1.33", "1.37"

CHOICES: dict[str, dict[str, Any]] = {
    "plain": {},
    "queue": {"kubernetes_queue": "trainers"},
    "one region": {"kubernetes_region": "local"},
}


@pytest.fixture
def catalog() -> Catalog:
    return shipped_catalog()


def settings(**changes: Any) -> KubernetesSettings:
    defaults: dict[str, Any] = {
        "nats_url": "nats://services:secret@nats:4222",
        "database_url": "postgresql://nobody:secret@db/x",
        "artifacts_url": "s3://ecolink",
        "kubernetes_image": "registry.example.org/ecolink-trainer:1",
    }
    return KubernetesSettings(**defaults | changes)


def spec(**changes: Any) -> SegmentSpec:
    return example().model_copy(update={"grace_seconds": 30} | changes)


def job(catalog: Catalog, of: SegmentSpec, **changes: Any) -> dict[str, Any]:
    kind = catalog.gpu_types[of.gpu_type]
    return manifests.job(of, kind, "eu-west-1", settings(**changes), TRAINER)


def pod_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"]["template"]["spec"]


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod_spec(manifest)["containers"]
    return container


@pytest.mark.parametrize("changes", CHOICES.values(), ids=list(CHOICES))
@pytest.mark.parametrize(
    ("version", "gpu"), [(OLDEST, ("h100", 8)), (USUAL, ("cpu", 1)), (NEWEST, ("l4", 1))]
)
def test_manifests_match_the_published_schemas(
    catalog: Catalog, version: str, gpu: tuple[str, int], changes: dict[str, Any]
) -> None:
    of = spec(gpu_type=gpu[0], gpu_count=gpu[1])
    manifest = job(catalog, of, **changes)
    validate(manifest, version)
    created = manifest | {"metadata": manifest["metadata"] | {"uid": "1"}}
    validate(manifests.secret(of, created), version)


def test_a_job_runs_once_as_a_restricted_user(catalog: Catalog) -> None:
    manifest = job(catalog, spec())
    pod, trainer = pod_spec(manifest), container(manifest)
    assert (manifest["spec"]["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert trainer["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["terminationGracePeriodSeconds"] == 32
    assert trainer["command"] == ["python", "-m", "services.trainer", "/ecolink/pod/spec.json"]


def test_labels_name_the_owner(catalog: Catalog) -> None:
    manifest = job(catalog, spec())
    labels = manifest["metadata"]["labels"]
    assert labels["ecolink/account"] == str(ACCOUNT_ID)
    assert labels["app.kubernetes.io/managed-by"] == "ecolink"
    assert manifest["spec"]["template"]["metadata"]["labels"] == labels
    assert manifests.pod_name(manifest) == PodName(JOB_ID, 1)


def test_gpus_select_their_nodes(catalog: Catalog) -> None:
    manifest = job(catalog, spec(gpu_type="a100-80", gpu_count=4))
    resources = container(manifest)["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == "4"
    assert resources["limits"]["memory"] == resources["requests"]["memory"] == f"{4 * 32 * 1024}Mi"
    assert resources["requests"]["cpu"] == "16000m"
    affinity = pod_spec(manifest)["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {
            "key": "nvidia.com/gpu.product",
            "operator": "In",
            "values": ["NVIDIA-A100-80GB-PCIe", "NVIDIA-A100-SXM4-80GB"],
        },
        {"key": "topology.kubernetes.io/region", "operator": "In", "values": ["eu-west-1"]},
    ]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container(manifest)["volumeMounts"]


def test_cpu_segments_request_no_gpu(catalog: Catalog) -> None:
    manifest = job(catalog, spec(), kubernetes_region="local")
    assert "nvidia.com/gpu" not in container(manifest)["resources"]["limits"]
    assert "affinity" not in pod_spec(manifest)
    tolerated = {each["key"] for each in pod_spec(manifest)["tolerations"]}
    assert tolerated == {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}


def test_a_job_has_no_secret(catalog: Catalog) -> None:
    """A user who may read Jobs sees their environment."""
    manifest = job(catalog, spec())
    assert "secret@" not in str(manifest)
    environment = {each["name"]: each["value"] for each in container(manifest)["env"]}
    assert environment["ECOLINK_NATS_URL"] == "nats://nats:4222"
    assert environment["ECOLINK_STORE_REPORTS"] == "true"
    assert "envFrom" not in container(manifest)


def test_a_trainer_without_a_beat_is_ended(catalog: Catalog, tmp_path: Path) -> None:
    """Run the probe's command as the node does."""
    probe = container(job(catalog, spec(), trainer_silence_timeout_seconds=50.0))["livenessProbe"]
    assert probe["initialDelaySeconds"] == 50
    beat = tmp_path / "beat"
    command = [each.replace("/ecolink/pod/beat", str(beat)) for each in probe["exec"]["command"]]

    def alive() -> bool:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    assert not alive(), "it never started"
    beat.touch()
    assert alive()
    old = time.time() - 60

    os.utime(beat, (old, old))
    assert not alive()
