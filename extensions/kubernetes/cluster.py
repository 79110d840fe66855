"""The calls of the Kubernetes API that the launcher makes, with its errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import urllib3
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

from extensions.kubernetes.settings import KubernetesSettings
from services.scheduler.launchers.launcher import LauncherUnavailable

Resource = dict[str, Any]
"""A resource of the Kubernetes API as decoded JSON."""

CONNECT_SECONDS, READ_SECONDS = 3.0, 10.0

TEMPORARY = (401, 408, 429)
"""HTTP statuses, besides 5xx, that do not refuse the content of a request."""

MERGE_PATCH = "application/merge-patch+json"

MANAGED = "app.kubernetes.io/managed-by=ecolink"
"""Selector of the launcher's resources."""

RIGHTS = "Give the scheduler the rights in deploy/kubernetes/base/rbac.yaml."

CONTAINER = "trainer"

LEAST_LINE_BYTES = 32
"""Assumed average size of a line of the log. Shorter lines give a shorter tail."""

CHUNK_BYTES = 65_536


class NoCluster(ValueError):
    """The credentials of the cluster are missing or unreadable."""


class Refused(Exception):
    """The API server refused a request. `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Cluster:
    """One namespace of a cluster. Every call may raise LauncherUnavailable or Refused."""

    def __init__(self, settings: KubernetesSettings) -> None:
        api = client.ApiClient(_configuration(settings))
        self._core, self._batch = client.CoreV1Api(api), client.BatchV1Api(api)
        self._namespace = settings.kubernetes_namespace
        self._options: dict[str, Any] = {
            "_preload_content": False,
            "_request_timeout": (CONNECT_SECONDS, READ_SECONDS),
        }

    def jobs(self) -> list[Resource]:
        """Return the Jobs of all pods."""
        return self._list(self._batch.list_namespaced_job)

    def pods(self) -> list[Resource]:
        """Return the pods of all Jobs."""
        return self._list(self._core.list_namespaced_pod)

    def nodes(self) -> list[Resource]:
        """Return all nodes of the cluster."""
        return self._call(self._core.list_node)["items"]

    def create_job(self, manifest: Resource) -> Resource:
        """Create a Job. Raise Refused with status 409 if there is one of this name."""
        return self._call(self._batch.create_namespaced_job, self._namespace, manifest)

    def create_secret(self, manifest: Resource) -> None:
        """Create a Secret. Raise Refused with status 409 if there is one of this name."""
        self._call(self._core.create_namespaced_secret, self._namespace, manifest)

    def patch_secret(self, name: str, change: Resource) -> None:
        """Merge a change into a Secret."""
        self._patch(self._core.patch_namespaced_secret, name, change)

    def patch_job(self, name: str, change: Resource) -> Resource:
        """Merge a change into a Job. Return the new Job."""
        return self._patch(self._batch.patch_namespaced_job, name, change)

    def patch_pod(self, name: str, change: Resource) -> None:
        """Merge a change into a pod."""
        self._patch(self._core.patch_namespaced_pod, name, change)

    def delete_job(self, name: str) -> None:
        """Delete a Job. The cluster then deletes its pods and its Secret."""
        self._call(
            self._batch.delete_namespaced_job,
            name,
            self._namespace,
            propagation_policy="Background",
        )

    def kill_pod(self, name: str) -> None:
        """Delete a pod without a grace period."""
        self._call(self._core.delete_namespaced_pod, name, self._namespace, grace_period_seconds=0)

    def log_tail(self, pod: str, max_bytes: int) -> bytes:
        """Return the end of a pod's log. The API limits lines, so read more and cut."""
        lines = max_bytes // LEAST_LINE_BYTES + 1
        with _translated():
            response: Any = self._core.read_namespaced_pod_log(
                pod, self._namespace, container=CONTAINER, tail_lines=lines, **self._options
            )
            _require_success(response)
            tail = b""
            for chunk in response.stream(CHUNK_BYTES):
                tail = (tail + chunk)[-max_bytes:]
            return tail

    def _list(self, call: Callable[..., Any]) -> list[Resource]:
        return self._call(call, self._namespace, label_selector=MANAGED)["items"]

    def _patch(self, call: Callable[..., Any], name: str, change: Resource) -> Resource:
        return self._call(call, name, self._namespace, change, _content_type=MERGE_PATCH)

    def _call(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Resource:
        with _translated():
            response = call(*arguments, **options, **self._options)
            _require_success(response)
            return json.loads(response.data)


def _configuration(settings: KubernetesSettings) -> client.Configuration:
    configuration = client.Configuration()
    configuration.retries = False  # the scheduler itself repeats every call
    try:
        if settings.kubernetes_config is None:
            load_incluster_config(client_configuration=configuration)
        else:
            load_kube_config(
                str(settings.kubernetes_config),
                client_configuration=configuration,
                persist_config=False,
            )
    except (ConfigException, OSError) as error:
        where = settings.kubernetes_config or "the service account of this pod"
        raise NoCluster(
            f"Cannot read the credentials of the cluster from {where}: {error}. Run the scheduler "
            "in the cluster, or set ECOLINK_KUBERNETES_CONFIG to a kubeconfig file."
        ) from error
    return configuration


@contextmanager
def _translated() -> Iterator[None]:
    """Raise Refused and LauncherUnavailable instead of the client's errors."""
    try:
        yield
    except ApiException as error:
        raise _error(int(error.status or 0), str(error.body or error.reason)) from error
    except (urllib3.exceptions.HTTPError, OSError, json.JSONDecodeError) as error:
        if isinstance(error, LauncherUnavailable):
            raise
        raise LauncherUnavailable(f"The Kubernetes API does not answer: {error}") from error


def _require_success(response: urllib3.BaseHTTPResponse) -> None:
    if response.status >= 400:
        raise _error(response.status, response.data.decode(errors="replace"))


def _error(status: int, body: str) -> Exception:
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = body.strip()[:500] or "no message"
    if status >= 500 or status in TEMPORARY or status == 0:
        return LauncherUnavailable(f"The Kubernetes API answered with {status}: {message}")
    return Refused(status, f"The Kubernetes API answered with {status}: {message}")
