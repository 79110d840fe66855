"""The Kubernetes launcher: one Job per segment, in a namespace of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import GpuType
from extensions.kubernetes import manifests, pod_state
from extensions.kubernetes.cluster import RIGHTS, Cluster, Refused, Resource
from extensions.kubernetes.manifests import BOUND_AT, BOUND_POD, pod_name
from extensions.kubernetes.settings import KubernetesSettings, require_usable
from infrastructure.artifacts.store import ArtifactCorrupt, Artifacts
from infrastructure.process.clock import Clock
from infrastructure.training.reports import SegmentSpec
from services.scheduler.launchers.launcher import (
    TRAINER,
    ClusterLauncher,
    LauncherUnavailable,
    LaunchFailed,
    Pod,
    PodName,
    PodPending,
    ReadCatalog,
)
from services.scheduler.launchers.recent_capacity import RecentCapacity

FRESH_SECONDS = 1.0
"""Age of a view that is recent enough for a launch, so that many launches share one list call."""

RENEW_SECONDS = 60.0
"""Seconds between two updates of the Secret of a pending pod, whose credentials expire."""

KEPT_LOG_BYTES = 1024**2

CONFLICT, NOT_FOUND = 409, 404

INVALID = (400, 422)
"""Statuses of a refused manifest. Other refusals may pass."""


@dataclass(frozen=True)
class View:
    """All Jobs and pods of the launcher at one moment."""

    read_at: float  # by the monotonic clock
    jobs: Mapping[PodName, Resource]
    pods: Mapping[PodName, Sequence[Resource]]  # of each Job, oldest first

    def pods_of(self, name: PodName) -> Sequence[Resource]:
        """Return the Kubernetes pods of a segment, oldest first."""
        return self.pods.get(name, ())

    def bound_pod(self, name: PodName) -> Resource | None:
        """Return the segment's pod unless it was deleted. It may outlive its Job, to save."""
        job, pods = self.jobs.get(name), self.pods_of(name)
        if job is None:
            started = [each for each in pods if pod_state.started_at(each) is not None]
            return started[0] if started else None
        uid = _annotations(job).get(BOUND_POD)
        return next((each for each in pods if each["metadata"]["uid"] == uid), None)


class KubernetesLauncher(ClusterLauncher):
    """A launcher that reads all its Jobs and pods with two list calls per round of polls.

    The Job keeps what the scheduler must remember, so that any scheduler can continue: the pod that
    the segment is bound to, and since when.
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        clock: Clock,
        catalog: ReadCatalog,
        program: Sequence[str] = TRAINER,
    ) -> None:
        require_usable(settings)
        self.host = f"kubernetes:{settings.kubernetes_namespace}"
        self._settings = settings
        self._clock = clock
        self._catalog = catalog
        self._program = program
        self._cluster = Cluster(settings)
        self._launching = threading.Lock()
        self._reading = threading.Lock()
        self._storing = threading.Lock()  # guards the next two
        self._view: View | None = None
        self._changes = 0  # counts our own changes, which make a view stale
        self._renewed: dict[PodName, float] = {}  # times of the Secrets, by the monotonic clock
        self._kept_logs: dict[PodName, bytes] = {}  # of killed pods, whose log the cluster deletes
        self._report_refs: dict[PodName, str] = {}  # in case an operator deletes a Job
        self._reasons: dict[PodName, str] = {}  # why pending pods wait, as logged
        self._warned: set[str] = set()  # names of devices, and pods whose end is logged
        self._gpu_types: dict[str, GpuType] = {}  # includes withdrawn types
        self._recent = RecentCapacity()
        self._logger = logging.getLogger("launcher")

    def close(self) -> None:
        """Do nothing: the launcher has no processes."""

    def capacity(self, known: Mapping[tuple[str, str], int]) -> Mapping[tuple[str, str], int]:
        """Return the GPUs of nodes that were ready in the last minutes, or the declared capacity.

        A capacity that the catalog declares limits the number of GPUs. Nodes have no CPU-backed
        types, so their number is always the declared one.
        """
        catalog = self._read_catalog()
        declared = {
            (region.name, name): count
            for region in catalog.regions.values()
            for name, count in region.capacity.items()
        }
        if self._settings.kubernetes_capacity == "catalog":
            return declared
        on_cpu = {
            place: count
            for place, count in declared.items()
            if catalog.gpu_types[place[1]].backing == "cpu"
        }
        counted = self._recent.highest(self._count_gpus(catalog), known)
        return {
            place: min(count, declared.get(place, count))
            for place, count in counted.items()
            if place[0] in catalog.regions and place[1] in catalog.gpu_types
        } | on_cpu

    def _read_catalog(self) -> Catalog:
        """Read the catalog and remember its GPU types. A segment may use a withdrawn type."""
        catalog = self._catalog()
        self._gpu_types |= catalog.gpu_types
        return catalog

    def _count_gpus(self, catalog: Catalog) -> Mapping[tuple[str, str], int]:
        kinds = {
            value: kind.name
            for kind in catalog.gpu_types.values()
            if kind.backing == "nvidia"
            for value in manifests.label_values(kind)
        }
        counted: Counter[tuple[str, str]] = Counter()
        for node in self._nodes():
            gpus = self._gpus_of(node)
            if gpus == 0 or not _accepts_pods(node, self._settings.kubernetes_gpu_resource):
                continue
            labels = node["metadata"].get("labels", {})
            device = labels.get(self._settings.kubernetes_gpu_label)
            region = self._settings.kubernetes_region or labels.get(
                self._settings.kubernetes_region_label
            )
            if device not in kinds:
                self._warn_of_device(node["metadata"]["name"], gpus, device)
            elif region not in catalog.regions:
                self._warn_of_region(node["metadata"]["name"], gpus, region)
            else:
                counted[region, kinds[device]] += gpus
        return counted

    def _gpus_of(self, node: Resource) -> int:
        allocatable = node["status"].get("allocatable", {})
        return int(allocatable.get(self._settings.kubernetes_gpu_resource, 0))

    def _nodes(self) -> list[Resource]:
        try:
            return self._cluster.nodes()
        except Refused as refused:
            raise _unavailable(refused) from refused

    def _warn_of_device(self, node: str, gpus: int, device: str | None) -> None:
        label = self._settings.kubernetes_gpu_label
        self._warn_once(
            f"device {device}",
            f"{gpus} GPUs of node {node} are unused: no GPU type has a device name that matches "
            f"its label {label}={device}. Add it with `ecolink catalog gpu-types set NAME "
            f"--device-name {device!r}`.",
        )

    def _warn_of_region(self, node: str, gpus: int, region: str | None) -> None:
        label = self._settings.kubernetes_region_label
        self._warn_once(
            f"region {region}",
            f"{gpus} GPUs of node {node} are unused: the catalog has no region {region!r}, which "
            f"is the node's label {label}. Add it with `ecolink catalog regions set`, or set "
            "ECOLINK_KUBERNETES_REGION to a region of the catalog.",
        )

    def _warn_once(self, key: str, text: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            self._logger.warning("%s", text)

    def launch(self, spec: SegmentSpec) -> Pod:
        """Create the Job, or continue with the existing one until its pod has started.

        Raise PodPending until then. Raise LaunchFailed, and delete the Job, if the pod cannot start
        or takes too long to start on its node.
        """
        name = PodName(spec.job_id, spec.segment)
        with self._launching:
            try:
                return self._launch(name, spec)
            except LaunchFailed as failed:
                self._logger.error("cannot launch %s: %s", name, failed)
                raise

    def _launch(self, name: PodName, spec: SegmentSpec) -> Pod:
        job = self._read(FRESH_SECONDS).jobs.get(name)
        if job is None:
            job = self._create(name, spec)
        if job["metadata"].get("deletionTimestamp") is not None:
            raise PodPending(f"The cluster still deletes the Job {job['metadata']['name']}.")
        if BOUND_POD not in _annotations(job):
            if manifests.RELEASED not in _annotations(job):
                job = self._release(name, spec, job)
            self._bind(name, spec, job)
        pod = self.poll(name)
        if pod is None:
            raise PodPending("The Job was deleted while its pod started.")
        return pod

    def _create(self, name: PodName, spec: SegmentSpec) -> Resource:
        kind, region = self._place(spec)
        manifest = manifests.job(spec, kind, region, self._settings, self._program)
        try:
            with self._changing():
                return self._cluster.create_job(manifest)
        except Refused as refused:
            if refused.status == CONFLICT:
                raise PodPending(f"The Job of {name} already exists.") from refused
            if refused.status in INVALID:
                raise LaunchFailed(f"Cannot create the Job of {name}: {refused}") from refused
            # For example a quota, which passes, or a missing right, which an operator can grant.
            raise _unavailable(refused) from refused

    def _place(self, spec: SegmentSpec) -> tuple[GpuType, str]:
        self._read_catalog()
        kind = self._gpu_types.get(spec.gpu_type)
        if kind is None:
            raise LaunchFailed(
                f"The catalog has no GPU type {spec.gpu_type!r}. Add it with `ecolink catalog "
                "gpu-types set`."
            )
        if kind.backing == "nvidia" and self._settings.kubernetes_capacity == "nodes":
            self._require_large_node(spec, kind)
        return kind, spec.region

    def _require_large_node(self, spec: SegmentSpec, kind: GpuType) -> None:
        """Raise LaunchFailed if all existing nodes of the type are too small for the ranks."""
        values = manifests.label_values(kind)
        most = max(
            (
                self._gpus_of(node)
                for node in self._nodes()
                if node["metadata"].get("labels", {}).get(self._settings.kubernetes_gpu_label)
                in values
            ),
            default=0,
        )
        if 0 < most < spec.gpu_count:
            raise LaunchFailed(
                f"The segment needs {spec.gpu_count} GPUs of type {kind.name} in one pod, but the "
                f"largest node has {most}."
            )

    def _release(self, name: PodName, spec: SegmentSpec, job: Resource) -> Resource:
        """Store the Secret of a suspended Job, and let the Job start unless Kueue decides."""
        self._store_secret(name, spec, job)
        change: Resource = {"metadata": {"annotations": {manifests.RELEASED: "true"}}}
        if self._settings.kubernetes_queue is None:
            change["spec"] = {"suspend": False}
        try:
            with self._changing():
                return self._cluster.patch_job(manifests.resource_name(name), change)
        except Refused as refused:
            raise _unavailable(refused) from refused

    def _store_secret(self, name: PodName, spec: SegmentSpec, job: Resource) -> None:
        manifest = manifests.secret(spec, job)
        try:
            try:
                self._cluster.create_secret(manifest)
            except Refused as refused:
                if refused.status != CONFLICT:
                    raise
                self._cluster.patch_secret(manifests.resource_name(name), manifest)
        except Refused as refused:
            raise _unavailable(refused) from refused
        self._renewed[name] = time.monotonic()

    def _bind(self, name: PodName, spec: SegmentSpec, job: Resource) -> None:
        """Record the pod of a Job. Billing starts now, a moment after the pod has started.

        The clock of the node may be wrong, and waiting is free. Raise PodPending if no pod has
        started, and LaunchFailed if none will.
        """
        pods = self._read(FRESH_SECONDS).pods_of(name)
        started = [each for each in pods if pod_state.started_at(each) is not None]
        if not started:
            raise self._pending_or_failed(name, spec, job, pods)
        bound = {BOUND_AT: self._clock.now().isoformat(), BOUND_POD: started[0]["metadata"]["uid"]}
        try:
            with self._changing():
                self._cluster.patch_job(
                    manifests.resource_name(name), {"metadata": {"annotations": bound}}
                )
        except Refused as refused:
            raise _unavailable(refused) from refused
        self._renewed.pop(name, None)
        self._reasons.pop(name, None)

    def _pending_or_failed(
        self, name: PodName, spec: SegmentSpec, job: Resource, pods: Sequence[Resource]
    ) -> PodPending | LaunchFailed:
        """Return the error of a launch whose pod has not started. After LaunchFailed, none will.

        A pod may wait for a node without a limit. Waiting is free, and a busy cluster, a quota of
        pods or a queue of Kueue is no fault of the job.
        """
        if (failure := pod_state.failure_to_start(job, pods)) is not None:
            return self._failed(name, f"The pod of {name} cannot start: {failure}")
        reason, since = pod_state.waits_for(job, pods), pod_state.on_a_node_since(job, pods)
        limit = self._settings.kubernetes_pending_seconds
        if since is not None and self._clock.now() - since > timedelta(seconds=limit):
            return self._failed(
                name,
                f"The pod of {name} did not start within {limit:g} s on its node "
                f"(ECOLINK_KUBERNETES_PENDING_SECONDS): {reason}",
            )
        if time.monotonic() - self._renewed.get(name, 0.0) > RENEW_SECONDS:
            self._store_secret(name, spec, job)
        if reason != self._reasons.get(name):
            self._logger.info("%s waits: %s", name, reason)
            self._reasons[name] = reason
        return PodPending(reason)

    def _failed(self, name: PodName, text: str) -> LaunchFailed:
        """Delete the Job, so that nothing starts later. Then return the error of the launch."""
        self.remove(name)
        return LaunchFailed(text)

    def poll(self, name: PodName) -> Pod | None:
        """Return the state of the bound pod. Each round of polls uses one view of all pods."""
        view = self._read(self._settings.heartbeat_seconds)
        job, pod = view.jobs.get(name), view.bound_pod(name)
        if job is not None and BOUND_AT in _annotations(job):
            bound_at = datetime.fromisoformat(_annotations(job)[BOUND_AT])
        elif job is None and pod is not None:  # an operator deleted the Job
            started = pod_state.started_at(pod)
            assert started is not None
            bound_at = started
        else:
            return None
        if pod is None:
            self._warn_once(f"end {name}", f"the pod of {name} was deleted")
            return Pod(name, bound_at, alive=False)
        if pod_state.is_alive(pod, self._clock.now()):
            return Pod(name, bound_at, alive=True)
        code = pod_state.exit_code(pod)
        if code != 0:
            self._warn_once(
                f"end {name}",
                f"the pod of {name} ended with exit code {code}: {pod_state.end_of(pod)}",
            )
        return Pod(name, bound_at, alive=False, exit_code=code)

    def stop(self, name: PodName) -> None:
        """Let the node send SIGTERM, and SIGKILL after the grace period.

        A deadline in the past has this effect, and keeps the pod with its exit code and its log. A
        deleted pod would lose both.
        """
        pod = self._running(name)
        if pod is None or "activeDeadlineSeconds" in pod["spec"]:
            return
        with _ignoring_absence(), self._changing():
            self._cluster.patch_pod(pod["metadata"]["name"], {"spec": {"activeDeadlineSeconds": 1}})

    def kill(self, name: PodName) -> None:
        """Delete the pod without a grace period. Keep the end of its log in memory."""
        pod = self._running(name)
        if pod is None:
            return
        self._kept_logs[name] = self.log(name, KEPT_LOG_BYTES)
        with _ignoring_absence(), self._changing():
            self._cluster.kill_pod(pod["metadata"]["name"])

    def _running(self, name: PodName) -> Resource | None:
        pod = self._read(self._settings.heartbeat_seconds).bound_pod(name)
        alive = pod is not None and pod_state.is_alive(pod, self._clock.now())
        return pod if alive else None

    def pods(self) -> list[PodName]:
        """Return the segments of all Jobs, including pending ones."""
        view = self._read(0.0)
        created = {
            name: job["metadata"]["creationTimestamp"]
            for name, job in view.jobs.items()
            if job["metadata"].get("deletionTimestamp") is None
        }
        return sorted(created, key=lambda name: (created[name], name))

    def log(self, name: PodName, max_bytes: int) -> bytes:
        """Return the end of the pod's log; empty if its node does not have it or is lost.

        Raise LauncherUnavailable only if the API server itself does not answer. Otherwise, the pods
        of a lost node could never be removed.
        """
        pod = self._read(self._settings.heartbeat_seconds).bound_pod(name)
        if pod is None:
            return self._kept_logs.get(name, b"")[-max_bytes:]
        try:
            return self._cluster.log_tail(pod["metadata"]["name"], max_bytes)
        except (Refused, LauncherUnavailable) as error:
            self._read(0.0)
            self._logger.warning("cannot read the log of %s: %s", name, error)
            return self._kept_logs.get(name, b"")[-max_bytes:]

    def kept_report(self, name: PodName) -> bytes | None:
        """Return the report that the trainer stored in the artifact store."""
        self._read(self._settings.heartbeat_seconds)
        ref = self._report_refs.get(name)
        if ref is None:
            return None
        try:
            return self._artifacts.get_document(ref)
        except (FileNotFoundError, ArtifactCorrupt):
            return None

    @cached_property
    def _artifacts(self) -> Artifacts:
        return Artifacts(self._settings.artifacts)

    def remove(self, name: PodName) -> None:
        """Delete the Job. The cluster deletes its pods and its Secret with it."""
        with _ignoring_absence(), self._changing():
            self._cluster.delete_job(manifests.resource_name(name))
        self._renewed.pop(name, None)
        self._reasons.pop(name, None)
        self._kept_logs.pop(name, None)
        self._report_refs.pop(name, None)
        self._warned.discard(f"end {name}")

    def _read(self, max_age_seconds: float) -> View:
        """Return a view at most this old and not before our own changes."""
        with self._reading:
            with self._storing:
                view, changes = self._view, self._changes
            if view is not None and time.monotonic() - view.read_at < max_age_seconds:
                return view
            read_at = time.monotonic()
            try:
                # Jobs first: the pod that a Job is bound to is then among the pods, or deleted.
                jobs = _by_name(self._cluster.jobs())
                view = View(read_at, jobs, _grouped(self._cluster.pods()))
            except Refused as refused:
                raise _unavailable(refused) from refused
            for name, job in jobs.items():
                if (ref := _annotations(job).get(manifests.REPORT)) is not None:
                    self._report_refs[name] = ref
            with self._storing:
                if changes == self._changes:
                    self._view = view
            return view

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Make the view stale after a change, even if the response to it was lost."""
        try:
            yield
        finally:
            with self._storing:
                self._view, self._changes = None, self._changes + 1


@contextmanager
def _ignoring_absence() -> Iterator[None]:
    """Ignore that a resource does not exist. Other refusals raise LauncherUnavailable."""
    try:
        yield
    except Refused as refused:
        if refused.status != NOT_FOUND:
            raise _unavailable(refused) from refused


def _unavailable(refused: Refused) -> LauncherUnavailable:
    return LauncherUnavailable(f"{refused} {RIGHTS}")


def _by_name(jobs: Iterable[Resource]) -> dict[PodName, Resource]:
    """Return the Jobs of segments by name. Skip Jobs without our labels."""
    found: dict[PodName, Resource] = {}
    for job in jobs:
        with suppress(KeyError, ValueError):
            found[pod_name(job)] = job
    return found


def _grouped(pods: Iterable[Resource]) -> dict[PodName, list[Resource]]:
    """Return the pods of each segment, oldest first. Skip pods without our labels."""
    found: defaultdict[PodName, list[Resource]] = defaultdict(list)
    for pod in sorted(pods, key=lambda each: each["metadata"]["creationTimestamp"]):
        with suppress(KeyError, ValueError):
            found[pod_name(pod)].append(pod)
    return dict(found)


def _annotations(resource: Resource) -> Mapping[str, str]:
    return resource["metadata"].get("annotations") or {}


def _accepts_pods(node: Resource, gpu_resource: str) -> bool:
    """Return True if a node is ready, and has only the taints that trainers tolerate."""
    if node["spec"].get("unschedulable"):
        return False
    if any(
        taint["effect"] in ("NoSchedule", "NoExecute") and taint["key"] != gpu_resource
        for taint in node["spec"].get("taints") or []
    ):
        return False
    return any(
        each["type"] == "Ready" and each["status"] == "True"
        for each in node["status"].get("conditions") or []
    )
