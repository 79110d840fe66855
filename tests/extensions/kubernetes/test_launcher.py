"""The Kubernetes launcher, by the requests that it sends to a fake cluster."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from extensions.kubernetes import launcher as module
from extensions.kubernetes.launcher import KubernetesLauncher
from infrastructure.training.reports import SegmentSpec
from services.scheduler.launchers.launcher import (
    LauncherUnavailable,
    LaunchFailed,
    Pod,
    PodName,
    PodPending,
)
from tests.builders.commands import NOW, FixedClock
from tests.builders.examples import JOB_ID
from tests.extensions.kubernetes.conftest import OpenLauncher
from tests.extensions.kubernetes.fake_cluster import FakeCluster, stamp
from tests.services.scheduler.launchers.test_launcher import spec as example

NAME = PodName(JOB_ID, 1)


def spec(segment: int = 1, **changes: Any) -> SegmentSpec:
    """The spec of a segment on CPUs, which needs no node."""
    return example(segment).model_copy(update={"region": "eu-west-1"} | changes)


def launch_pending(launcher: KubernetesLauncher, segment: int = 1) -> None:
    with pytest.raises(PodPending):
        launcher.launch(spec(segment))


@pytest.fixture
def bound(launcher: KubernetesLauncher, cluster: FakeCluster) -> Pod:
    """A running pod."""
    launch_pending(launcher)
    cluster.start()
    return launcher.launch(spec())


# Launches


def test_a_pod_is_bound_when_its_container_has_started(
    launcher: KubernetesLauncher, cluster: FakeCluster, clock: FixedClock
) -> None:
    launch_pending(launcher)
    assert launcher.poll(NAME) is None, "a pending pod is not billed"
    assert launcher.pods() == [NAME]
    clock.time = NOW + timedelta(seconds=40)
    cluster.start(NOW + timedelta(seconds=35))
    pod = launcher.launch(spec())
    assert pod == Pod(NAME, NOW + timedelta(seconds=40), alive=True)
    assert launcher.poll(NAME) == pod


@pytest.mark.parametrize("by_node", [-3600, 20, 3600])
def test_a_wrong_clock_of_a_node_changes_no_bill(
    launcher: KubernetesLauncher,
    cluster: FakeCluster,
    clock: FixedClock,
    by_node: int,
) -> None:
    launch_pending(launcher)
    clock.time = NOW + timedelta(seconds=40)
    cluster.start(NOW + timedelta(seconds=by_node))
    assert launcher.launch(spec()).bound_at == NOW + timedelta(seconds=40)


def test_repeated_launches_create_one_job_and_one_secret(
    launcher: KubernetesLauncher, open_launcher: OpenLauncher, cluster: FakeCluster, bound: Pod
) -> None:
    assert launcher.launch(spec()) == bound
    assert open_launcher().launch(spec()) == bound, "by another scheduler"
    assert [verb for verb, kind, _ in cluster.bodies if kind == "jobs"].count("create") == 1
    assert len(cluster.all("jobs")) == len(cluster.all("pods")) == len(cluster.all("secrets")) == 1


def test_the_secret_exists_before_the_pod_and_belongs_to_the_job(
    launcher: KubernetesLauncher, cluster: FakeCluster
) -> None:
    launch_pending(launcher)
    writes = [(verb, kind) for verb, kind, _ in cluster.bodies]
    assert writes == [("create", "jobs"), ("create", "secrets"), ("patch", "jobs")]
    (_, _, job), _, (_, _, release) = cluster.bodies
    assert (job["spec"]["suspend"], release["spec"]["suspend"]) == (True, False)
    assert SegmentSpec.model_validate(cluster.secret()) == spec()
    (secret,) = cluster.all("secrets")
    (owner,) = secret["metadata"]["ownerReferences"]
    assert owner["uid"] == cluster.job()["metadata"]["uid"]


@pytest.mark.parametrize("lost", [("create", "jobs"), ("create", "secrets"), ("patch", "jobs")])
def test_a_launch_continues_after_a_lost_response(
    launcher: KubernetesLauncher, cluster: FakeCluster, lost: tuple[str, str]
) -> None:
    """The scheduler may also restart there."""
    cluster.lost_responses.add(lost)
    with pytest.raises(LauncherUnavailable):
        launcher.launch(spec())
    cluster.lost_responses.clear()
    launch_pending(launcher)
    cluster.start()
    assert launcher.launch(spec()).alive
    assert len(cluster.all("jobs")) == len(cluster.all("pods")) == 1


def test_two_schedulers_that_launch_at_once_create_one_job(
    open_launcher: OpenLauncher, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = open_launcher(), open_launcher()
    place = one._place

    def meanwhile(of: SegmentSpec) -> Any:
        launch_pending(other)
        return place(of)

    monkeypatch.setattr(one, "_place", meanwhile)
    with pytest.raises(PodPending, match="already exists"):
        one.launch(spec())
    assert len(cluster.all("jobs")) == 1


def test_a_job_that_is_being_deleted_is_awaited(
    launcher: KubernetesLauncher, cluster: FakeCluster
) -> None:
    launch_pending(launcher)
    cluster.change("jobs", {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
    with pytest.raises(PodPending, match="still deletes"):
        launcher.launch(spec())
    assert launcher.pods() == []


def test_the_credentials_of_a_pending_pod_are_renewed(
    launcher: KubernetesLauncher, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A JWT expires within minutes, and Kueue may keep a Job for hours."""
    launch_pending(launcher)
    with pytest.raises(PodPending):
        launcher.launch(spec(paid_seconds=77))
    assert cluster.secret()["paid_seconds"] == spec().paid_seconds, "it is new enough"
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.0)
    with pytest.raises(PodPending):
        launcher.launch(spec(paid_seconds=77))
    assert cluster.secret()["paid_seconds"] == 77


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("InvalidImageName", "couldn't parse image"),
        ("ErrImageNeverPull", "image is not present with pull policy of Never"),
    ],
)
def test_a_pod_that_cannot_start_fails_the_launch(
    launcher: KubernetesLauncher, cluster: FakeCluster, reason: str, message: str
) -> None:
    launch_pending(launcher)
    cluster.wait(reason, message)
    with pytest.raises(LaunchFailed, match=f"{reason}: {message}"):
        launcher.launch(spec())
    assert cluster.all("jobs") == cluster.all("pods") == cluster.all("secrets") == []


def test_a_pod_that_its_node_refuses_fails_the_launch(
    launcher: KubernetesLauncher, cluster: FakeCluster
) -> None:
    launch_pending(launcher)
    status = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no devices"}
    cluster.change("pods", {"status": status})
    with pytest.raises(LaunchFailed, match="UnexpectedAdmissionError: no devices"):
        launcher.launch(spec())
    assert launcher.pods() == []


def test_an_image_without_the_program_fails_the_launch(
    launcher: KubernetesLauncher, cluster: FakeCluster
) -> None:
    launch_pending(launcher)
    end = {
        "exitCode": 128,
        "reason": "StartError",
        "message": 'exec: "python": executable file not found',
        "startedAt": "1970-01-01T00:00:00Z",
    }
    container = {"name": "trainer", "state": {"terminated": end}}
    cluster.change("pods", {"status": {"phase": "Failed", "containerStatuses": [container]}})
    with pytest.raises(LaunchFailed, match="executable file not found"):
        launcher.launch(spec())
    assert cluster.all("jobs") == []


def test_a_failed_job_without_a_pod_fails_the_launch(
    launcher: KubernetesLauncher, cluster: FakeCluster
) -> None:
    launch_pending(launcher)
    cluster.delete("pods")
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "x"}
    cluster.change("jobs", {"status": {"conditions": [failed]}})
    with pytest.raises(LaunchFailed, match="BackoffLimitExceeded"):
        launcher.launch(spec())


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
}


MONTH = timedelta(days=30)


def test_an_unschedulable_pod_waits_without_a_limit(
    launcher: KubernetesLauncher,
    cluster: FakeCluster,
    clock: FixedClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Waiting is free, and a busy cluster is no fault of the job."""
    caplog.set_level("INFO", "launcher")
    launch_pending(launcher)
    cluster.change("pods", {"status": {"conditions": [UNSCHEDULABLE]}})
    clock.time = NOW + MONTH
    for _ in range(2):
        with pytest.raises(PodPending, match="Insufficient"):
            launcher.launch(spec())
    assert [each.message for each in caplog.records if "Insufficient" in each.message] == [
        f"{NAME} waits: Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    ]
    cluster.start()
    assert launcher.launch(spec()).alive


def test_a_job_without_a_pod_waits_without_a_limit(
    launcher: KubernetesLauncher, cluster: FakeCluster, clock: FixedClock
) -> None:
    """A quota of GPUs refuses the pod, not the Job."""
    launch_pending(launcher)
    cluster.delete("pods")
    clock.time = NOW + MONTH
    with pytest.raises(PodPending, match="no pod yet"):
        launcher.launch(spec())


def test_a_pod_on_a_node_must_start_within_the_limit(
    launcher: KubernetesLauncher, cluster: FakeCluster, clock: FixedClock
) -> None:
    launch_pending(launcher)
    cluster.change("pods", {"status": {"conditions": [UNSCHEDULABLE]}})
    clock.time = NOW + MONTH
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(clock.time)}
    cluster.change("pods", {"status": {"conditions": [scheduled]}})
    cluster.wait("ImagePullBackOff", "Back-off pulling image")
    clock.time += timedelta(seconds=900)
    with pytest.raises(PodPending, match="Back-off"):
        launcher.launch(spec())
    clock.time += timedelta(seconds=1)
    with pytest.raises(LaunchFailed, match=r"900 s.*PENDING_SECONDS.*Back-off pulling image"):
        launcher.launch(spec())
    assert cluster.all("jobs") == []


def test_an_image_that_cannot_be_pulled_now_is_awaited(
    launcher: KubernetesLauncher, cluster: FakeCluster
) -> None:
    launch_pending(launcher)
    cluster.wait("ImagePullBackOff", "Back-off pulling image")
    with pytest.raises(PodPending, match="Back-off pulling image"):
        launcher.launch(spec())
    cluster.start()
    assert launcher.launch(spec()).alive


def test_an_invalid_job_fails_the_launch(
    launcher: KubernetesLauncher, cluster: FakeCluster
) -> None:
    cluster.refusals["create", "jobs"] = 422, "spec.template: Invalid value"
    with pytest.raises(LaunchFailed, match="Invalid value"):
        launcher.launch(spec())


@pytest.mark.parametrize(
    ("verb", "kind"), [("create", "jobs"), ("create", "secrets"), ("patch", "jobs")]
)
def test_a_launch_that_the_cluster_refuses_now_is_repeated(
    launcher: KubernetesLauncher, cluster: FakeCluster, verb: str, kind: str
) -> None:
    """A quota or a missing right is no fault of the job."""
    cluster.refusals[verb, kind] = 403, "exceeded quota: gpus"
    with pytest.raises(LauncherUnavailable, match="exceeded quota"):
        launcher.launch(spec())
    cluster.refusals.clear()
    launch_pending(launcher)
    cluster.start()
    assert launcher.launch(spec()).alive


def test_a_refused_deletion_is_repeated(
    launcher: KubernetesLauncher, cluster: FakeCluster, bound: Pod
) -> None:
    cluster.refusals["delete", "jobs"] = 403, "forbidden"
    with pytest.raises(LauncherUnavailable, match="forbidden"):
        launcher.remove(bound.name)


@pytest.mark.full
def test_an_unknown_gpu_type_fails_the_launch(
    launcher: KubernetesLauncher, cluster: FakeCluster
) -> None:
    with pytest.raises(LaunchFailed, match="no GPU type 'abacus'"):
        launcher.launch(spec(gpu_type="abacus"))
    assert cluster.bodies == []


def test_a_segment_larger_than_every_node_fails_the_launch(
    launcher: KubernetesLauncher, cluster: FakeCluster
) -> None:
    cluster.add_node("one", 2, {"nvidia.com/gpu.product": "NVIDIA-L4"})
    with pytest.raises(LaunchFailed, match=r"needs 4 GPUs.*largest node has 2"):
        launcher.launch(spec(gpu_type="l4", gpu_count=4))
    assert cluster.bodies == []


def test_a_segment_waits_for_a_node_that_is_away(
    launcher: KubernetesLauncher, cluster: FakeCluster
) -> None:
    with pytest.raises(PodPending):
        launcher.launch(spec(gpu_type="l4", gpu_count=4))
    assert len(cluster.all("pods")) == 1


# Kueue


def test_a_job_that_kueue_has_not_admitted_is_neither_bound_nor_limited(
    open_launcher: OpenLauncher, cluster: FakeCluster, clock: FixedClock
) -> None:
    launcher = open_launcher(kubernetes_queue="trainers")
    launch_pending(launcher)
    assert cluster.job()["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "trainers"
    clock.time = NOW + timedelta(hours=5)
    with pytest.raises(PodPending, match="Kueue"):
        launcher.launch(spec())
    assert cluster.job()["spec"]["suspend"] is True
    assert cluster.all("pods") == []


def test_an_admitted_job_is_bound_when_it_starts(
    open_launcher: OpenLauncher, cluster: FakeCluster, clock: FixedClock
) -> None:
    launcher = open_launcher(kubernetes_queue="trainers")
    launch_pending(launcher)
    clock.time = NOW + timedelta(hours=5)
    cluster.change("jobs", {"spec": {"suspend": False}})
    cluster.add_pod()
    launch_pending(launcher)
    cluster.start()
    assert launcher.launch(spec()).bound_at == clock.time


def test_a_job_that_kueue_preempts_has_ended_even_if_it_is_resumed(
    launcher: KubernetesLauncher, cluster: FakeCluster, bound: Pod
) -> None:
    """Its second pod would train a segment that has ended."""
    cluster.change("jobs", {"spec": {"suspend": True}})
    cluster.delete("pods")
    lost = Pod(NAME, bound.bound_at, alive=False, exit_code=None)
    assert launcher.poll(NAME) == lost
    cluster.add_pod()
    cluster.start()
    assert launcher.poll(NAME) == lost
    assert launcher.launch(spec()) == lost


# Ends


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (0, "Completed", 0),
        (1, "Error", 1),
        (4, "Error", 4),
        (137, "OOMKilled", -signal.SIGKILL),
        (143, "Error", -signal.SIGTERM),
        (137, "ContainerStatusUnknown", None),
    ],
)
def test_an_ended_pod_has_its_exit_code(
    launcher: KubernetesLauncher,
    cluster: FakeCluster,
    bound: Pod,
    code: int,
    reason: str,
    expected: int | None,
) -> None:
    cluster.end(code, reason)
    assert launcher.poll(NAME) == Pod(NAME, bound.bound_at, alive=False, exit_code=expected)
    assert launcher.pods() == [NAME], "until the scheduler removes it"


def test_an_evicted_pod_is_lost_with_its_reason(
    launcher: KubernetesLauncher, cluster: FakeCluster, bound: Pod, caplog: pytest.LogCaptureFixture
) -> None:
    evicted = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
    cluster.change("pods", {"status": evicted | {"containerStatuses": []}})
    with caplog.at_level(logging.WARNING):
        assert launcher.poll(NAME) == Pod(NAME, bound.bound_at, alive=False)
        launcher.poll(NAME)
    assert caplog.text.count("Evicted: The node was low on memory.") == 1


def test_a_preempted_pod_runs_until_its_container_ends(
    launcher: KubernetesLauncher, cluster: FakeCluster, bound: Pod, caplog: pytest.LogCaptureFixture
) -> None:
    """The trainer gets SIGTERM, and may save a checkpoint in the grace period."""
    target = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    ends = (NOW + timedelta(seconds=22)).isoformat()
    cluster.change("pods", {"metadata": {"deletionTimestamp": ends}})
    cluster.change("pods", {"status": {"conditions": [target]}})
    assert launcher.poll(NAME) == bound
    cluster.end(137)
    with caplog.at_level(logging.WARNING):
        pod = launcher.poll(NAME)
    assert pod is not None
    assert not pod.alive
    assert "PreemptionByScheduler" in caplog.text


def test_a_pod_on_a_lost_node_is_lost_after_its_grace_period(
    launcher: KubernetesLauncher, cluster: FakeCluster, bound: Pod, clock: FixedClock
) -> None:
    """Its node cannot confirm the end, so its container is reported as running."""
    ends = NOW + timedelta(seconds=22)
    cluster.change("pods", {"metadata": {"deletionTimestamp": ends.isoformat()}})
    clock.time = ends + timedelta(seconds=30)
    assert launcher.poll(NAME) == bound
    clock.time = ends + timedelta(seconds=31)
    assert launcher.poll(NAME) == Pod(NAME, bound.bound_at, alive=False)


def test_a_pod_of_a_deleted_node_is_lost(
    launcher: KubernetesLauncher, cluster: FakeCluster, bound: Pod
) -> None:
    cluster.delete("pods")
    assert launcher.poll(NAME) == Pod(NAME, bound.bound_at, alive=False)


def test_a_pod_whose_job_an_operator_deleted_runs_until_its_end(
    launcher: KubernetesLauncher, cluster: FakeCluster, bound: Pod
) -> None:
    cluster.delete("jobs")
    pod = launcher.poll(NAME)
    assert pod is not None
    assert pod.alive
    cluster.collect()
    assert launcher.poll(NAME) is None
    assert launcher.pods() == []


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_nothing_ends_while_the_cluster_does_not_answer(
    launcher: KubernetesLauncher, cluster: FakeCluster, bound: Pod, status: int
) -> None:
    cluster.status = status
    asks: list[Callable[[], object]] = [
        lambda: launcher.poll(NAME),
        launcher.pods,
        lambda: launcher.launch(spec(2)),
        lambda: launcher.kept_report(NAME),
        lambda: launcher.capacity({}),
    ]
    for ask in asks:
        with pytest.raises(LauncherUnavailable):
            ask()
    cluster.status = None
    assert launcher.poll(NAME) == bound
    assert launcher.pods() == [NAME]


def test_an_unreachable_cluster_is_unavailable(open_launcher: OpenLauncher, tmp_path: Any) -> None:
    config = tmp_path / "elsewhere"
    text = (tmp_path / "kubeconfig").read_text()
    server = next(line for line in text.splitlines() if "server:" in line)
    config.write_text(text.replace(server, "    server: http://127.0.0.1:1"))
    launcher = open_launcher(kubernetes_config=config)
    with pytest.raises(LauncherUnavailable, match="does not answer"):
        launcher.pods()


# Stops


def test_a_stopped_pod_keeps_its_log_and_exit_code(
    launcher: KubernetesLauncher, cluster: FakeCluster, bound: Pod
) -> None:
    launcher.stop(NAME)
    launcher.stop(NAME)
    patches = [body for verb, kind, body in cluster.bodies if (verb, kind) == ("patch", "pods")]
    assert patches == [{"spec": {"activeDeadlineSeconds": 1}}]
    assert launcher.poll(NAME) == bound, "it saves a checkpoint"
    cluster.end(0, "Completed")
    assert launcher.poll(NAME) == Pod(NAME, bound.bound_at, alive=False, exit_code=0)
    assert len(cluster.all("pods")) == 1


def test_a_killed_pod_is_deleted_at_once_and_leaves_its_log(
    launcher: KubernetesLauncher, cluster: FakeCluster, bound: Pod
) -> None:
    cluster.logs[cluster.pod()["metadata"]["name"]] = b"first\nlast\n"
    launcher.kill(NAME)
    assert cluster.all("pods") == []
    assert launcher.poll(NAME) == Pod(NAME, bound.bound_at, alive=False)
    assert launcher.log(NAME, 5) == b"last\n"


def test_ended_and_unknown_pods_are_neither_stopped_nor_killed(
    launcher: KubernetesLauncher, cluster: FakeCluster, bound: Pod
) -> None:
    cluster.end(1)
    calls = len(cluster.bodies)
    for name in (NAME, PodName(JOB_ID, 9)):
        launcher.stop(name)
        launcher.kill(name)
    assert len(cluster.bodies) == calls
    assert len(cluster.all("pods")) == 1


def test_a_removed_pod_leaves_nothing(
    launcher: KubernetesLauncher, cluster: FakeCluster, bound: Pod
) -> None:
    cluster.end(0)
    launcher.remove(NAME)
    launcher.remove(NAME)
    assert cluster.all("jobs") == cluster.all("pods") == cluster.all("secrets") == []
    assert launcher.poll(NAME) is None
    assert launcher.log(NAME, 10) == b""


# Logs and reports


def test_the_log_is_the_end_of_the_output(
    launcher: KubernetesLauncher, cluster: FakeCluster, bound: Pod
) -> None:
    lines = b"".join(b"line %06d of the output of a trainer\n" % n for n in range(5000))
    cluster.logs[cluster.pod()["metadata"]["name"]] = lines
    for most in (1, 1000, 100_000, 1024**2):
        assert launcher.log(NAME, most) == lines[-most:]


def test_a_lost_log_is_empty(
    launcher: KubernetesLauncher, cluster: FakeCluster, bound: Pod
) -> None:
    assert launcher.log(NAME, 100) == b""


def test_the_log_of_a_lost_node_does_not_prevent_the_removal(
    launcher: KubernetesLauncher, cluster: FakeCluster, bound: Pod
) -> None:
    """The API server answers, but cannot reach the node."""
    cluster.refusals["get", "pods/log"] = 502, "dial tcp 10.0.0.7:10250: i/o timeout"
    assert launcher.log(NAME, 100) == b""
    cluster.status = 503
    with pytest.raises(LauncherUnavailable):
        launcher.log(NAME, 100)


def test_the_report_is_read_from_the_artifact_store(
    launcher: KubernetesLauncher, cluster: FakeCluster, bound: Pod
) -> None:
    assert launcher.kept_report(NAME) is None
    launcher._artifacts.put("checkpoints/report/final_report.json", b"{}")
    assert launcher.kept_report(NAME) == b"{}"
    cluster.delete("jobs")
    cluster.collect()
    assert launcher.kept_report(NAME) == b"{}", "even if an operator deleted the Job"
    assert launcher.kept_report(PodName(JOB_ID, 9)) is None


# Requests


def test_one_round_of_polls_lists_jobs_and_pods_once(
    open_launcher: OpenLauncher, cluster: FakeCluster
) -> None:
    launcher = open_launcher(heartbeat_seconds=1000.0)
    for segment in range(1, 6):
        launch_pending(launcher, segment)
    cluster.calls.clear()
    for name in launcher.pods():
        launcher.poll(name)
        launcher.kept_report(name)
    assert cluster.calls == [("list", "jobs", "batch"), ("list", "pods", "")]


def test_a_view_is_never_older_than_the_own_change(
    open_launcher: OpenLauncher, cluster: FakeCluster
) -> None:
    launcher = open_launcher(heartbeat_seconds=1000.0)
    assert launcher.pods() == []
    launch_pending(launcher)
    cluster.start()
    launcher.launch(spec())
    pod = launcher.poll(NAME)
    assert pod is not None
    assert pod.alive
    launcher.remove(NAME)
    assert launcher.poll(NAME) is None


def test_foreign_resources_are_ignored(
    launcher: KubernetesLauncher, cluster: FakeCluster, bound: Pod
) -> None:
    cluster.change("pods", {"metadata": {"labels": {"ecolink/job": "another"}}})
    assert launcher.poll(NAME) == Pod(NAME, bound.bound_at, alive=False)
    cluster.change("jobs", {"metadata": {"labels": {"ecolink/job": None}}})
    assert launcher.pods() == []
