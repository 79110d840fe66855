"""The launcher of Slurm's REST API, with a folder per pod in a directory that nodes share."""

from __future__ import annotations

import json
import logging
import math
import shlex
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

from domain.catalog.catalog_entries import GpuType
from extensions.slurm.rest import (
    COMPLETING,
    SlurmJob,
    SlurmNode,
    SlurmRefused,
    SlurmRest,
    alive,
)
from extensions.slurm.settings import SlurmSettings
from infrastructure.process.clock import Clock
from infrastructure.training.reports import STOP, SegmentSpec
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
from services.scheduler.launchers.pod_folder import (
    EXIT,
    LOG,
    REQUEST,
    SPEC,
    STARTED,
    beat,
    kept_report,
    log_tail,
    read,
    write,
    write_spec,
)
from services.scheduler.launchers.recent_capacity import RecentCapacity
from services.scheduler.launchers.trainer_environment import trainer_environment

STATES_SECONDS = 0.5
"""Seconds for which all pods share one answer about the states of the cluster's jobs."""

COMPLETING_SECONDS = 120.0
"""Time after which a job that is still completing counts as lost."""

WARNING_SECONDS = 10
"""Seconds, in addition to the grace period, between SIGTERM and the end of a job's time limit."""

NODE_PATH = "/usr/local/bin:/usr/bin:/bin"

IDENTITY = "ecolink.identity"
"""File of the shared directory that shows that the directory is mounted."""


@dataclass(frozen=True)
class Cluster:
    """The settings of a cluster that have no default."""

    url: str
    user: str
    token_file: Path
    directory: Path

    @classmethod
    def of(cls, settings: SlurmSettings) -> Cluster:
        """Return the settings. Raise ValueError if one is missing."""
        needed = ("url", "user", "token_file", "directory", "regions")
        values = {name: getattr(settings, f"slurm_{name}") for name in needed}
        for name, value in values.items():
            if not value:
                raise ValueError(
                    f"ECOLINK_LAUNCHER is slurm, but ECOLINK_SLURM_{name.upper()} is not set. Set "
                    "it as described in docs/operate/slurm.md."
                )
        del values["regions"]
        return cls(**values)

    def open(self) -> SlurmRest:
        """Return a client of the cluster."""
        return SlurmRest(self.url, self.user, self.token_file)


@dataclass(frozen=True)
class Request:
    """The launch of a pod."""

    job_id: int | None = None  # None: no answer of Slurm to the submission was recorded
    submitted_at: datetime | None = None  # None: the time of the submission is unknown
    bound_at: datetime | None = None  # None: the launcher has not seen that the job started
    nodes: int = 1

    @classmethod
    def of(cls, folder: Path) -> Request | None:
        """Read the request of a pod, or return None."""
        content = read(folder / REQUEST)
        if content is None:
            return None
        times = (content[name] for name in ("submitted_at", "bound_at"))
        return cls(
            content["job_id"],
            *(each and datetime.fromisoformat(each) for each in times),
            nodes=content["nodes"],
        )

    def save(self, folder: Path) -> None:
        """Write the request to the folder of its pod."""
        write(folder / REQUEST, json.dumps(asdict(self), default=datetime.isoformat))

    def bind(self, job: SlurmJob | None, now: datetime) -> Request:
        """Return the request with the time at which Slurm started the job, at most `now`.

        Slurm's clock may differ from that of the launcher, so only the time that the job waited in
        the queue is Slurm's. If it is unknown, the time is `now`, in favor of the customer.
        """
        started_at = now
        if job is not None and self.submitted_at is not None:
            started_at = min(now, self.submitted_at + timedelta(seconds=job.waited_seconds))
        return replace(self, bound_at=started_at)


@dataclass(frozen=True)
class Placement:
    """The nodes of a job."""

    partition: str
    gres_type: str
    nodes: int


class SlurmLauncher(ClusterLauncher):
    """A launcher of batch jobs named after their pods, bound and billed from their start."""

    def __init__(
        self,
        settings: SlurmSettings,
        clock: Clock,
        catalog: ReadCatalog,
        program: Sequence[str] = TRAINER,
    ) -> None:
        cluster = Cluster.of(settings)
        self._settings, self._clock, self._catalog = settings, clock, catalog
        python = settings.slurm_python or sys.executable
        self._python = python
        self._program = [python if each == sys.executable else each for each in program]
        self._rest = cluster.open()
        self._directory = cluster.directory.resolve()
        # Schedulers on all machines see the same pods. Customers must not see the path.
        self.host = f"slurm:{uuid5(NAMESPACE_URL, self._directory.as_uri())}"
        self._identity = settings.home.resolve() / "slurm-directory.identity"
        self._launching = threading.Lock()
        self._recent = RecentCapacity()
        self._gpu_types: dict[str, GpuType] = {}  # includes withdrawn types
        self._warned: set[str] = set()
        self._reasons: dict[PodName, str] = {}
        self._states: Mapping[int, frozenset[str]] = {}
        self._states_at = -STATES_SECONDS
        self._states_lock = threading.Lock()
        self._completing: dict[int, float] = {}  # times, by the monotonic clock
        self._logger = logging.getLogger("launcher")

    def close(self) -> None:
        """Close the connections to slurmrestd."""
        self._rest.close()

    def capacity(self, known: Mapping[tuple[str, str], int]) -> Mapping[tuple[str, str], int]:
        """Return the GPUs of the usable nodes in the partition of each region.

        A capacity that the catalog declares limits the number. A lower number counts only after 10
        minutes, because queued jobs that need more GPUs than there are would be paused.
        """
        catalog = self._catalog()
        self._gpu_types |= catalog.gpu_types
        nodes, partitions = self._rest.nodes(), self._rest.partitions()
        counts: Counter[tuple[str, str]] = Counter()
        for region, partition in self._settings.slurm_regions.items():
            if partition not in partitions:
                self._warn(
                    f"Slurm has no partition {partition!r} for region {region!r}. Change "
                    "ECOLINK_SLURM_REGIONS."
                )
            if region not in catalog.regions or not partitions.get(partition, False):
                continue
            for node in nodes:
                if partition not in node.partitions or not node.usable:
                    continue
                for gres_type, count in node.gpus.items():
                    kind = self._type_of(gres_type, catalog.gpu_types)
                    if kind is not None:
                        counts[region, kind.name] += count
        limits = {
            name: region
            for name, region in catalog.regions.items()
            if name in self._settings.slurm_regions
        }
        found = self._recent.highest(counts, known)
        return {
            (region, kind): min(count, limits[region].capacity.get(kind, count))
            for (region, kind), count in found.items()
            if region in limits and kind in catalog.gpu_types
        }

    def _type_of(self, gres_type: str, kinds: Mapping[str, GpuType]) -> GpuType | None:
        """Return the GPU type of the catalog for a gres type. Warn once if there is none."""
        for kind in kinds.values():
            if _matches(kind, gres_type):
                return kind
        shown = f"gpu:{gres_type}" if gres_type else "gpu (without a type)"
        self._warn(
            f"The cluster has unused GPUs of gres {shown}: no GPU type of the catalog has this "
            "name or device name. Add it with `ecolink catalog gpu-types set NAME --device-name "
            f"'{gres_type or 'TYPE'}'`, or give the gres a type in Slurm."
        )
        return None

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._logger.warning("%s", text)

    def launch(self, spec: SegmentSpec) -> Pod:
        """Submit the job of a pod, if there is none. Raise PodPending until Slurm has started it.

        Each call for a queued job renews its spec, because the credentials in it expire.
        """
        name = PodName(spec.job_id, spec.segment)
        with self._launching:
            folder = self._folder(name)
            request = Request.of(folder)
            if request is None or request.bound_at is None:
                try:
                    request = self._bound(name, folder, self._submitted(spec, folder, request))
                except (LaunchFailed, OSError) as error:
                    if isinstance(error, LauncherUnavailable):
                        raise
                    self._discard(name)
                    self._logger.error("cannot launch %s: %s", name, error)
                    if isinstance(error, LaunchFailed):
                        raise
                    raise LaunchFailed(f"Cannot write to {folder}: {error}") from error
        return self._pod(name, folder, request)

    def _submitted(self, spec: SegmentSpec, folder: Path, request: Request | None) -> Request:
        """Submit the job of a pod, unless it was submitted. Write or renew the spec of the pod.

        If the answer of Slurm to an earlier submission is unknown, find the job by its name.
        """
        folder.mkdir(mode=0o700, exist_ok=True)
        write_spec(folder, spec)
        if request is None:
            request = Request()
            request.save(folder)
        elif request.job_id is None and (found := self._rest.jobs_named(folder.name)):
            request = Request(found[0].id, nodes=found[0].node_count)
            request.save(folder)
        if request.job_id is None:
            placement = self._placement(spec)
            job, script = self._job(spec, folder, placement), self._script(folder, placement)
            try:
                job_id = self._rest.submit(job, script)
            except SlurmRefused as refused:
                if refused.may_pass:
                    raise PodPending(f"Slurm does not accept the job now. {refused}") from refused
                raise LaunchFailed(f"Slurm refuses the job. {refused}") from refused
            request = Request(job_id, self._clock.now(), nodes=placement.nodes)
            request.save(folder)
            self._logger.info("submitted %s as Slurm job %s", folder.name, job_id)
        return request

    def _bound(self, name: PodName, folder: Path, request: Request) -> Request:
        """Bind the pod if its job has started. Otherwise raise PodPending or LaunchFailed."""
        assert request.job_id is not None
        job = self._rest.job(request.job_id)
        if job is not None and job.queued:
            if job.reason not in ("None", self._reasons.get(name)):
                self._logger.info("Slurm job %s of %s waits: %s", job.id, name, job.reason)
                self._reasons[name] = job.reason
            raise PodPending(f"Slurm job {job.id} is queued: {job.reason}.")
        # Slurm forgets a job some minutes after its end, in which no scheduler may have run.
        if not (_holds(folder, STARTED) if job is None else job.alive or job.nodes):
            shown = "unknown" if job is None else job.shown
            raise LaunchFailed(f"Slurm job {request.job_id} ended before it started: {shown}.")
        self._reasons.pop(name, None)
        request = request.bind(job, self._clock.now())
        request.save(folder)
        return request

    def _job(self, spec: SegmentSpec, folder: Path, placement: Placement) -> dict[str, Any]:
        """Return the description of a job, without secrets.

        The job must not be requeued: after a lost node, EcoLink launches the next segment itself,
        and two trainers of one job must not run side by side. If the answer to a submission is
        lost, `singleton` prevents that a second job of the same name runs at the same time.
        """
        settings = self._settings
        here = spec.gpu_count // placement.nodes
        log = str(folder / LOG).replace("%", "%%")
        job: dict[str, Any] = {
            "name": folder.name,
            "comment": f"ecolink account {spec.account_id}",
            "partition": placement.partition,
            "current_working_directory": str(folder),
            "environment": [f"{key}={value}" for key, value in self._environment().items()],
            "standard_output": log,
            "standard_error": log,
            "open_mode": ["APPEND"],
            "nodes": str(placement.nodes),
            "tasks": placement.nodes,
            "tasks_per_node": 1,
            "tres_per_node": f"gres/gpu:{placement.gres_type}:{here}",
            "requeue": False,
            "dependency": "singleton",
            "kill_warning_signal": "TERM",
            "kill_warning_delay": _number(settings.grace_seconds + WARNING_SECONDS),
        }
        if placement.nodes == 1:
            # On several nodes, the batch process is srun, which would kill its tasks.
            job["kill_warning_flags"] = ["BATCH_JOB"]
        if settings.slurm_account is not None:
            job["account"] = settings.slurm_account
        if settings.slurm_qos is not None:
            job["qos"] = settings.slurm_qos
        if settings.slurm_cpus_per_gpu is not None:
            job["cpus_per_task"] = settings.slurm_cpus_per_gpu * here
        if settings.slurm_memory_per_gpu_bytes is not None:
            memory = settings.slurm_memory_per_gpu_bytes * here
            job["memory_per_node"] = _number(math.ceil(memory / 1024**2))
        if settings.slurm_time_limit_seconds is not None:
            job["time_limit"] = _number(settings.slurm_time_limit_seconds // 60)
        return job

    def _placement(self, spec: SegmentSpec) -> Placement:
        """Return the partition of a segment, the gres type as its nodes spell it, and their number.

        Use as few nodes as possible, with the same number of GPUs on each. Raise LaunchFailed if
        the partition cannot run the segment.
        """
        partition = self._settings.slurm_regions.get(spec.region)
        if partition is None:
            raise LaunchFailed(
                f"Region {spec.region!r} has no partition. Add it to ECOLINK_SLURM_REGIONS."
            )
        self._gpu_types |= self._catalog().gpu_types
        kind = self._gpu_types.get(spec.gpu_type)
        if kind is None:
            raise LaunchFailed(
                f"The catalog has no GPU type {spec.gpu_type!r}. Add it with `ecolink "
                "catalog gpu-types set`."
            )
        spelled: Counter[str] = Counter()
        for node in self._nodes_of(partition):
            spelled.update({each: n for each, n in node.gpus.items() if _matches(kind, each)})
        if not spelled:
            raise LaunchFailed(
                f"Partition {partition!r} has no GPUs of type {kind.name}. Check its gres with "
                "`sinfo -o '%N %G'`."
            )
        gres_type = spelled.most_common(1)[0][0]
        sizes = [node.gpus.get(gres_type, 0) for node in self._nodes_of(partition)]
        for nodes in range(1, len(sizes) + 1):
            here, rest = divmod(spec.gpu_count, nodes)
            if rest == 0 and sum(size >= here for size in sizes) >= nodes:
                return Placement(partition, gres_type, nodes)
        raise LaunchFailed(
            f"Partition {partition!r} cannot place {spec.gpu_count} GPUs of type {kind.name} on "
            "nodes with an equal number of GPUs."
        )

    def _nodes_of(self, partition: str) -> list[SlurmNode]:
        return [node for node in self._rest.nodes() if partition in node.partitions]

    def _environment(self) -> dict[str, str]:
        node_home = self._settings.slurm_node_home
        return trainer_environment(self._settings) | {
            "PATH": NODE_PATH,
            "ECOLINK_HOME": str(node_home),
            "TORCHINDUCTOR_CACHE_DIR": str(node_home / "compiled"),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }

    def _script(self, folder: Path, placement: Placement) -> str:
        """Return the batch script: the prologue of the operator, and then the pod."""
        command = [self._python, "-m", "extensions.slurm.pod", str(folder)]
        if placement.nodes > 1:
            nodes = str(placement.nodes)
            command += ["srun", "--nodes", nodes, "--ntasks", nodes, "--ntasks-per-node", "1"]
            command += [*self._program, "--nodes", nodes, str(folder / SPEC)]
        else:
            command += [*self._program, str(folder / SPEC)]
        return "\n".join(
            [
                "#!/bin/sh",
                "umask 077",
                self._settings.slurm_prologue,
                f"mkdir -p {shlex.quote(str(self._settings.slurm_node_home))}",
                f"exec {shlex.join(command)}",
                "",
            ]
        )

    def poll(self, name: PodName) -> Pod | None:
        """Read the folder of the pod, and ask Slurm for the state of its job."""
        folder = self._folder(name)
        request = Request.of(folder)
        if request is None or request.bound_at is None:
            return None
        return self._pod(name, folder, request)

    def _pod(self, name: PodName, folder: Path, request: Request) -> Pod:
        assert request.bound_at is not None
        assert request.job_id is not None
        ended = Pod(name, request.bound_at, alive=False)
        if (left := read(folder / EXIT)) is not None:
            return replace(ended, exit_code=left["exit_code"])
        if self._alive(request.job_id):
            return replace(ended, alive=True, beat=beat(folder))
        if _holds(folder, EXIT):
            return replace(ended, exit_code=(read(folder / EXIT) or {}).get("exit_code"))
        return replace(ended, exit_code=_exit_code(self._rest.job(request.job_id)))

    def _alive(self, job_id: int) -> bool:
        """Return True if processes of a job may run. All pods share one query of Slurm.

        A job whose processes cannot be killed is completing until an administrator acts. It does
        not count after COMPLETING_SECONDS.
        """
        with self._states_lock:
            recent = time.monotonic() - self._states_at < STATES_SECONDS
            if not recent or job_id not in self._states:
                self._states = self._rest.states()
                self._states_at = time.monotonic()
            states = self._states.get(job_id, frozenset())
            if COMPLETING not in states:
                self._completing.pop(job_id, None)
                return alive(states)
            since = self._completing.setdefault(job_id, time.monotonic())
        if time.monotonic() - since < COMPLETING_SECONDS:
            return True
        self._warn(f"Slurm job {job_id} does not end. Check its nodes; its segment has ended.")
        return False

    def stop(self, name: PodName) -> None:
        """Signal the shim or, since srun would kill its tasks at once, write a file that asks."""
        if (started := self._started(name)) is not None and started.job_id is not None:
            if started.nodes > 1:
                (self._folder(name) / STOP).touch()
            else:
                self._rest.signal(started.job_id, "SIGTERM")

    def kill(self, name: PodName) -> None:
        """Cancel the job, which kills all its processes."""
        if (started := self._started(name)) is not None and started.job_id is not None:
            self._rest.cancel(started.job_id)

    def _started(self, name: PodName) -> Request | None:
        request = Request.of(self._folder(name))
        return None if request is None or request.bound_at is None else request

    def pods(self) -> list[PodName]:
        """Return the pods of all folders, including those of queued jobs."""
        found = self._root().glob(f"*/{REQUEST}")
        return sorted(PodName.parse(path.parent.name) for path in found)

    def log(self, name: PodName, max_bytes: int) -> bytes:
        """Return the end of the output of the batch script and the trainer."""
        return log_tail(self._folder(name), max_bytes)

    def kept_report(self, name: PodName) -> bytes | None:
        """Return the report that the trainer stored next to its spec."""
        return kept_report(self._folder(name))

    def remove(self, name: PodName) -> None:
        """Cancel the job if it has not ended, and delete the folder of the pod."""
        folder = self._folder(name)
        request = Request.of(folder)
        if request is not None and read(folder / EXIT) is None:
            known = [request.job_id] if request.job_id is not None else []
            for job_id in known or [job.id for job in self._rest.jobs_named(str(name))]:
                self._rest.cancel(job_id)
        shutil.rmtree(folder, ignore_errors=True)
        self._reasons.pop(name, None)

    def _discard(self, name: PodName) -> None:
        try:
            self.remove(name)
        except LauncherUnavailable:
            raise
        except OSError as error:
            self._logger.warning("cannot delete the folder of %s: %s", name, error)

    def _folder(self, name: PodName) -> Path:
        return self._root() / str(name)

    def _root(self) -> Path:
        """Return the directory of the pods. Raise LauncherUnavailable if it is not mounted.

        Otherwise, every running pod would look like one that was never launched.
        """
        marker, known = self._directory / IDENTITY, self._identity
        try:
            if not known.exists():
                with suppress(FileExistsError), marker.open("x") as file:
                    file.write(uuid4().hex)
                known.parent.mkdir(parents=True, exist_ok=True)
                write(known, marker.read_text())
            if marker.read_text() == known.read_text():
                return self._directory
        except OSError as error:
            raise LauncherUnavailable(
                f"Cannot use ECOLINK_SLURM_DIRECTORY {self._directory}: {error}. Mount it."
            ) from error
        raise LauncherUnavailable(
            f"{self._directory} is not the directory that this scheduler used before. Mount that "
            f"one, or delete {known} if you moved the pods."
        )


def _holds(folder: Path, name: str) -> bool:
    """Return True if a folder has a file. Only a listing makes NFS clients look again."""
    with suppress(FileNotFoundError):
        return any(each.name == name for each in folder.iterdir())
    return False


def _matches(kind: GpuType, gres_type: str) -> bool:
    """Return True for the name of a GPU type, or for a device name that AutoDetect derives."""
    names = (kind.name, *kind.device_names)
    return _spelling(gres_type) in {_spelling(each) for each in names}


def _spelling(name: str) -> str:
    return name.lower().replace(" ", "_")


def _exit_code(job: SlurmJob | None) -> int | None:
    """Return the code of the batch process, or None if Slurm ended the job."""
    if job is None or not job.states & {"COMPLETED", "FAILED"}:
        return None
    if "FAILED" in job.states and job.exit_code == 0:
        return None  # a signal ended the batch process itself
    return job.exit_code if job.exit_code <= 128 else 128 - job.exit_code


def _number(value: int) -> dict[str, Any]:
    return {"set": True, "infinite": False, "number": value}
