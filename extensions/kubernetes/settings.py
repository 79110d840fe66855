"""Settings of the Kubernetes launcher, and their checks."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

from pydantic import ByteSize, Field

from domain.core.quantities import GIB
from infrastructure.settings import Settings

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""Name of a namespace, by RFC 1123."""


class KubernetesSettings(Settings):
    """The settings of EcoLink, and those of the Kubernetes launcher."""

    kubernetes_namespace: str = Field(
        default="ecolink-trainers",
        description="Namespace of the trainers' Jobs. Only one installation of EcoLink may use it.",
    )
    kubernetes_image: str | None = Field(
        default=None, description="Image of the trainers' containers, with a tag or digest."
    )
    kubernetes_config: Path | None = Field(
        default=None,
        description="Kubeconfig file with the credentials of the scheduler. If unset, the "
        "scheduler uses the service account of its own pod.",
    )
    kubernetes_service_account: str = Field(
        default="ecolink-trainer",
        description="Service account of the trainers' pods. They get no token of it.",
    )
    kubernetes_region: str | None = Field(
        default=None,
        description="Region of all nodes. If unset, `ECOLINK_KUBERNETES_REGION_LABEL` determines "
        "the region of each node.",
    )
    kubernetes_region_label: str = Field(
        default="topology.kubernetes.io/region",
        description="Label of nodes whose value is a region of the catalog.",
    )
    kubernetes_gpu_label: str = Field(
        default="nvidia.com/gpu.product",
        description="Label of nodes with the name of their GPUs. It is compared with the device "
        "names of the catalog's GPU types, in which a label has `-` for each space.",
    )
    kubernetes_gpu_resource: str = Field(
        default="nvidia.com/gpu", description="Name of the resource that counts a node's GPUs."
    )
    kubernetes_capacity: Literal["nodes", "catalog"] = Field(
        default="nodes",
        description="Source of the number of GPUs: `nodes` counts those of the ready nodes, and "
        "`catalog` uses the declared capacity of the regions, for clusters that add nodes "
        "on demand.",
    )
    kubernetes_queue: str | None = Field(
        default=None,
        description="LocalQueue of Kueue for the trainers' Jobs. If set, Jobs start suspended, and "
        "Kueue admits them.",
    )
    kubernetes_cpus_per_gpu: float = Field(
        default=4.0, gt=0, description="CPU cores that a trainer requests for each GPU."
    )
    kubernetes_memory_per_gpu_bytes: ByteSize = Field(
        default=ByteSize(32 * GIB), ge=1, description="Memory of a trainer for each GPU."
    )
    kubernetes_disk_bytes: ByteSize = Field(
        default=ByteSize(100 * GIB),
        ge=1,
        description="Temporary disk space of a trainer. It holds the base model, the dataset and "
        "one checkpoint.",
    )
    kubernetes_pending_seconds: float = Field(
        default=900.0,
        gt=0,
        description="Seconds that a pod may take to start on its node, for example to pull its "
        "image, before the launch fails. A pod may wait for a node or for Kueue without a limit.",
    )


class UnusableSettings(ValueError):
    """Settings with which no pod could run."""


def require_usable(settings: KubernetesSettings) -> None:
    """Raise UnusableSettings with all problems of the settings."""
    found = list(problems(settings))
    if found:
        raise UnusableSettings(" ".join(found))


def problems(settings: KubernetesSettings) -> Iterator[str]:
    """Return each problem with its setting, value and fix."""
    if not settings.kubernetes_image:
        yield (
            "ECOLINK_KUBERNETES_IMAGE is not set. Set it to the image of the trainers, such as "
            "registry.example.org/ecolink-trainer:0.1.0."
        )
    if not NAME.fullmatch(settings.kubernetes_namespace):
        yield (
            f"ECOLINK_KUBERNETES_NAMESPACE is {settings.kubernetes_namespace!r}. Use lowercase "
            "letters, digits and hyphens."
        )
    if settings.artifacts.startswith("file:"):
        yield (
            f"ECOLINK_ARTIFACTS_URL is {settings.artifacts!r}, which pods on other machines cannot "
            "read. Set it to an object store, such as s3://ecolink."
        )
    url = settings.trainer_nats_url or settings.nats_url
    if url is None:
        yield "ECOLINK_TRAINER_NATS_URL is not set. Set it to the URL of NATS for pods."
    elif _is_loopback(urlparse(url).hostname):
        yield (
            f"Trainers would connect to NATS at {urlparse(url).hostname}, which is their own pod. "
            "Set ECOLINK_TRAINER_NATS_URL to the URL of NATS for pods, such as "
            "nats://nats.ecolink.svc:4222."
        )


def _is_loopback(host: str | None) -> bool:
    try:
        return host is None or host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host name
        return False
