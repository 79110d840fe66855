"""Checks of the Kubernetes launcher for `ecolink doctor`."""

from __future__ import annotations

from collections.abc import Iterator

from extensions.kubernetes.cluster import RIGHTS, Cluster, NoCluster, Refused
from extensions.kubernetes.settings import KubernetesSettings, problems
from infrastructure.checks.machine import Check, Level
from services.scheduler.launchers.launcher import LauncherUnavailable

NAME = "launcher"


def checks(settings: KubernetesSettings) -> Iterator[Check]:
    """Check the settings, the credentials, the connection and the rights to list resources."""
    found = [Check(NAME, Level.FAILED, problem) for problem in problems(settings)]
    yield from found
    if not found:
        yield _cluster(settings)


def _cluster(settings: KubernetesSettings) -> Check:
    try:
        cluster = Cluster(settings)
        jobs = len(cluster.jobs())
        cluster.pods()
        nodes = len(cluster.nodes()) if settings.kubernetes_capacity == "nodes" else None
    except NoCluster as error:
        return Check(NAME, Level.FAILED, str(error))
    except LauncherUnavailable as error:
        fix = "Check ECOLINK_KUBERNETES_CONFIG, the network and the certificates of the cluster."
        return Check(NAME, Level.FAILED, f"{error} {fix}")
    except Refused as error:
        return Check(NAME, Level.FAILED, f"{error} {RIGHTS}")
    seen = "" if nodes is None else f"; the cluster has {nodes} nodes"
    text = f"namespace {settings.kubernetes_namespace} has {jobs} Jobs of trainers{seen}"
    return Check(NAME, Level.OK, text)
