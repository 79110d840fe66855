"""The state of a Kubernetes pod and of its Job, as the scheduler needs it."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from extensions.kubernetes.cluster import CONTAINER, Resource

HOPELESS = frozenset({"InvalidImageName", "ErrImageNeverPull"})
"""Reasons of a waiting container that never pass. An image registry, for example, may recover."""

NEVER_RAN = frozenset({"StartError", "ContainerCannotRun"})
"""Reasons of a terminated container whose program did not start, for example without `python`."""

NO_EXIT_CODE = frozenset({"ContainerStatusUnknown"})
"""Reasons of a terminated container whose exit code is made up."""

SIGNALLED = 128

LOST_MARGIN = timedelta(seconds=30)
"""Time after the end of a deleted pod's grace period in which its node may confirm the end."""


def time_of(text: str) -> datetime:
    """Parse a timestamp of the API."""
    return datetime.fromisoformat(text)


def started_at(pod: Resource) -> datetime | None:
    """Return the time at which the trainer started, by the node's clock. None: it did not."""
    state = _state(pod)
    if state.get("terminated", {}).get("reason") in NEVER_RAN:
        return None
    for phase in ("running", "terminated"):
        if (started := state.get(phase, {}).get("startedAt")) is not None:
            return time_of(started)
    return None


def is_alive(pod: Resource, now: datetime) -> bool:
    """Return True if the trainer may run.

    If the node is lost, the API still reports a running container. The cluster then deletes the pod
    when its toleration ends, but the node does not confirm that.
    """
    deleted = pod["metadata"].get("deletionTimestamp")
    if deleted is not None and now > time_of(deleted) + LOST_MARGIN:
        return False
    return "running" in _state(pod)


def exit_code(pod: Resource) -> int | None:
    """Return the trainer's exit code, negative for a signal, or None if it is unknown."""
    terminated = _state(pod).get("terminated")
    if terminated is None or terminated.get("reason") in NO_EXIT_CODE:
        return None
    code = terminated["exitCode"]
    return SIGNALLED - code if SIGNALLED < code < SIGNALLED + signal.NSIG else code


def end_of(pod: Resource) -> str:
    """Describe the end of a pod for the log, such as `OOMKilled` or `Evicted: low on memory`."""
    status, state = pod.get("status", {}), _state(pod)
    reasons = [
        *(f"{each['reason']}" for each in disruptions(pod)),
        _sentence(status.get("reason"), status.get("message")),
        _sentence(state.get("terminated", {}).get("reason"), None),
    ]
    return "; ".join(filter(None, reasons)) or "no reason given"


def disruptions(pod: Resource) -> list[Resource]:
    """Return the conditions of a pod that the cluster preempted, evicted or drained."""
    return [each for each in _conditions(pod) if each["type"] == "DisruptionTarget"]


def failure_to_start(job: Resource, pods: Iterable[Resource]) -> str | None:
    """Return why the trainer of a Job will never start, or None if it may start."""
    for pod in pods:
        waiting = _state(pod).get("waiting", {})
        if waiting.get("reason") in HOPELESS:
            return _sentence(waiting["reason"], waiting.get("message"))
        terminated = _state(pod).get("terminated", {})
        if terminated.get("reason") in NEVER_RAN:
            return _sentence(terminated["reason"], terminated.get("message"))
        status = pod.get("status", {})
        if status.get("phase") in ("Failed", "Succeeded"):
            return _sentence(status.get("reason") or status["phase"], status.get("message"))
    for condition in _conditions(job):
        if condition["type"] == "Failed" and condition["status"] == "True":
            return _sentence(condition.get("reason"), condition.get("message"))
    return None


def waits_for(job: Resource, pods: Iterable[Resource]) -> str:
    """Describe why the trainer of a Job has not started yet."""
    if job["spec"].get("suspend"):
        return "Kueue has not admitted the Job."
    texts: list[str] = []
    for pod in pods:
        waiting = _state(pod).get("waiting", {})
        texts.append(_sentence(waiting.get("reason"), waiting.get("message")))
        for condition in _conditions(pod):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                texts.append(_sentence(condition.get("reason"), condition.get("message")))
    return "; ".join(filter(None, texts)) or "The Job has no pod yet. See `kubectl describe job`."


def on_a_node_since(job: Resource, pods: Iterable[Resource]) -> datetime | None:
    """Return since when the newest pod of a Job has a node. None: no pod has one."""
    if job["spec"].get("suspend"):
        return None
    return max(
        (
            time_of(each.get("lastTransitionTime") or pod["metadata"]["creationTimestamp"])
            for pod in pods
            for each in _conditions(pod)
            if each["type"] == "PodScheduled" and each["status"] == "True"
        ),
        default=None,
    )


def _state(pod: Resource) -> dict[str, Any]:
    """Return the state of the trainer's container: waiting, running, terminated or empty."""
    for status in pod.get("status", {}).get("containerStatuses") or []:
        if status["name"] == CONTAINER:
            return status.get("state") or {}
    return {}


def _conditions(resource: Resource) -> list[Resource]:
    return resource.get("status", {}).get("conditions") or []


def _sentence(reason: str | None, message: str | None) -> str:
    return ": ".join(filter(None, (reason, message)))
