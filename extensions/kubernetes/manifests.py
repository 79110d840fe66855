"""The Job and the Secret of a segment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from domain.catalog.catalog_entries import GpuType
from extensions.kubernetes.cluster import CONTAINER, Resource
from extensions.kubernetes.settings import KubernetesSettings
from infrastructure.training.reports import BEAT, SegmentSpec, stored_report_ref
from services.scheduler.launchers.launcher import TRAINER, PodName
from services.scheduler.launchers.trainer_environment import trainer_environment

PREFIX = "ecolink-"
ACCOUNT, JOB, SEGMENT = "ecolink/account", "ecolink/job", "ecolink/segment"
"""Labels of the owner of a resource."""

REPORT = "ecolink/report"
"""Annotation with the artifact in which the trainer stores its report."""

BOUND_AT, BOUND_POD = "ecolink/bound-at", "ecolink/bound-pod"
"""Annotations: start of billing, and uid of the pod. The launcher ignores a second pod."""

RELEASED = "ecolink/released"
"""Annotation of a Job whose Secret exists."""

SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"
QUEUE = "kueue.x-k8s.io/queue-name"

SPEC = "spec.json"
POD_DIRECTORY = PurePosixPath("/ecolink/pod")
HOME = PurePosixPath("/ecolink/home")

USER = 10_001
"""User and group of the trainer's processes. The image needs no such user."""

GRACE_MARGIN_SECONDS = 2
"""Seconds between the end of the grace period and SIGKILL, as under the shim."""

PROBE_SECONDS, PROBE_FAILURES = 10, 3


def resource_name(name: PodName) -> str:
    """Return the name of the Job and the Secret of a segment."""
    return f"{PREFIX}{name}"


def pod_name(resource: Resource) -> PodName:
    """Return the segment of a Job or a pod by its labels. Raise KeyError without these labels."""
    labels = resource["metadata"]["labels"]
    return PodName.parse(f"{labels[JOB]}-{labels[SEGMENT]}")


def secret(spec: SegmentSpec, job: Resource) -> Resource:
    """Return the Secret with the spec and its NATS credentials, which is deleted with its Job."""
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
    }
    name = PodName(spec.job_id, spec.segment)
    metadata = {"name": resource_name(name), "labels": _labels(spec), "ownerReferences": [owner]}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "stringData": {SPEC: spec.model_dump_json()},
    }


def job(
    spec: SegmentSpec,
    kind: GpuType,
    region: str,
    settings: KubernetesSettings,
    program: Sequence[str],
) -> Resource:
    """Return the Job of a segment. It is suspended until its Secret exists, or Kueue admits it."""
    queue = {} if settings.kubernetes_queue is None else {QUEUE: settings.kubernetes_queue}
    report = {REPORT: stored_report_ref(spec.checkpoint_prefix)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": resource_name(PodName(spec.job_id, spec.segment)),
            "labels": _labels(spec) | queue,
            "annotations": report,
        },
        "spec": {
            "suspend": True,
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 0,  # EcoLink relaunches, as another segment
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {
                    "labels": _labels(spec),
                    "annotations": report | {SAFE_TO_EVICT: "false"},
                },
                "spec": _pod(spec, kind, region, settings, program),
            },
        },
    }


def _labels(spec: SegmentSpec) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "ecolink-trainer",
        "app.kubernetes.io/component": "trainer",
        "app.kubernetes.io/part-of": "ecolink",
        "app.kubernetes.io/managed-by": "ecolink",
        ACCOUNT: str(spec.account_id),
        JOB: str(spec.job_id),
        SEGMENT: str(spec.segment),
    }


def _pod(
    spec: SegmentSpec,
    kind: GpuType,
    region: str,
    settings: KubernetesSettings,
    program: Sequence[str],
) -> Resource:
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": spec.grace_seconds + GRACE_MARGIN_SECONDS,
        "serviceAccountName": settings.kubernetes_service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": _tolerations(kind, settings),
        **_affinity(kind, region, settings),
        "containers": [_container(spec, kind, settings, program)],
        "volumes": _volumes(spec, settings),
    }


def _affinity(kind: GpuType, region: str, settings: KubernetesSettings) -> Resource:
    wanted: list[Resource] = []
    if kind.backing == "nvidia":
        names = sorted(label_values(kind))
        wanted.append({"key": settings.kubernetes_gpu_label, "operator": "In", "values": names})
    if settings.kubernetes_region is None:
        label = settings.kubernetes_region_label
        wanted.append({"key": label, "operator": "In", "values": [region]})
    if not wanted:
        return {}
    terms = {"nodeSelectorTerms": [{"matchExpressions": wanted}]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


def label_values(kind: GpuType) -> set[str]:
    """Return the values of a node's label that name this GPU type."""
    return {name.replace(" ", "-") for name in kind.device_names}


def _tolerations(kind: GpuType, settings: KubernetesSettings) -> list[Resource]:
    """Tolerate the taint of GPU nodes, and a lost node for as long as a silent trainer."""
    seconds = math.ceil(settings.trainer_silence_timeout_seconds)
    lost = [
        {
            "key": f"node.kubernetes.io/{state}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": seconds,
        }
        for state in ("not-ready", "unreachable")
    ]
    if kind.backing == "cpu":
        return lost
    gpu = {"key": settings.kubernetes_gpu_resource, "operator": "Exists", "effect": "NoSchedule"}
    return [gpu, *lost]


def _container(
    spec: SegmentSpec, kind: GpuType, settings: KubernetesSettings, program: Sequence[str]
) -> Resource:
    # The path of this process's Python means nothing in another image.
    command = ["python", *program[1:]] if program is TRAINER else list(program)
    environment = _environment(spec, settings)
    return {
        "name": CONTAINER,
        "image": settings.kubernetes_image,
        "command": [*command, str(POD_DIRECTORY / SPEC)],
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "resources": _resources(spec, kind, settings),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "livenessProbe": _liveness(settings),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "pod", "mountPath": str(POD_DIRECTORY)},
            {
                "name": "spec",
                "mountPath": str(POD_DIRECTORY / SPEC),
                "subPath": SPEC,
                "readOnly": True,
            },
            {"name": "home", "mountPath": str(HOME)},
            {"name": "tmp", "mountPath": "/tmp"},
            *([{"name": "shm", "mountPath": "/dev/shm"}] if spec.gpu_count > 1 else []),
        ],
    }


def _environment(spec: SegmentSpec, settings: KubernetesSettings) -> dict[str, str]:
    """Return the environment of a trainer, without secrets."""
    return trainer_environment(settings) | {
        "ECOLINK_HOME": str(HOME),
        "ECOLINK_STORE_REPORTS": "true",
        "HOME": str(HOME),
        "USER": "ecolink",  # torch asks for it, and the image has no user of this number
        "TORCHINDUCTOR_CACHE_DIR": str(HOME / "compiled"),
        "OMP_NUM_THREADS": str(max(1, int(settings.kubernetes_cpus_per_gpu))),
    }


def _resources(spec: SegmentSpec, kind: GpuType, settings: KubernetesSettings) -> Resource:
    memory = _mebibytes(settings.kubernetes_memory_per_gpu_bytes * spec.gpu_count)
    cpu = f"{math.ceil(settings.kubernetes_cpus_per_gpu * spec.gpu_count * 1000)}m"
    disk = _mebibytes(settings.kubernetes_disk_bytes)
    gpus = {settings.kubernetes_gpu_resource: str(spec.gpu_count)}
    limits = {"memory": memory, "ephemeral-storage": disk}
    limits |= gpus if kind.backing == "nvidia" else {}
    return {"requests": limits | {"cpu": cpu}, "limits": limits}


def _mebibytes(size: int) -> str:
    return f"{math.ceil(size / 1024**2)}Mi"


def _liveness(settings: KubernetesSettings) -> Resource:
    """End a trainer whose reporter no longer touches its beat file."""
    seconds = math.ceil(
        max(settings.trainer_silence_timeout_seconds, 10 * settings.heartbeat_seconds)
    )
    beat = POD_DIRECTORY / BEAT
    command = f"test $(($(date +%s) - $(stat -c %Y {beat}))) -le {seconds}"
    return {
        "exec": {"command": ["sh", "-c", command]},
        "initialDelaySeconds": seconds,
        "periodSeconds": PROBE_SECONDS,
        "timeoutSeconds": PROBE_SECONDS,
        "failureThreshold": PROBE_FAILURES,
        "terminationGracePeriodSeconds": 1,
    }


def _volumes(spec: SegmentSpec, settings: KubernetesSettings) -> list[Any]:
    name = resource_name(PodName(spec.job_id, spec.segment))
    disk = {"sizeLimit": _mebibytes(settings.kubernetes_disk_bytes)}
    volumes: list[Any] = [
        {"name": "pod", "emptyDir": {}},
        {"name": "spec", "secret": {"secretName": name, "defaultMode": 0o440}},
        {"name": "home", "emptyDir": disk},
        {"name": "tmp", "emptyDir": {}},
    ]
    if spec.gpu_count > 1:  # ranks exchange tensors in shared memory
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
    return volumes
