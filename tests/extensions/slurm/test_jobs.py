"""Jobs on a real Slurm cluster, whose nodes crash and whose jobs are preempted."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from deploy.demo.account import acting_for_the_demo
from deploy.local.ports import free_port
from domain.use_cases.catalog import Cataloging, gpu_type_change
from infrastructure.postgres.store import connect, scalar
from infrastructure.settings import Settings
from services.projector.audit import audit
from services.scheduler.launchers.launcher import PodName
from tests.e2e.test_faults import assert_billed_as_the_trainer_logged
from tests.extensions.slurm.cluster import GPUS, NODES, URGENT, USER, SlurmCluster
from tests.extensions.slurm.forwarder import forwarding
from tests.extensions.slurm.rows import real_cluster, slurm_settings
from tests.polling import eventually
from tests.running import EcoLinkUnderTest, running_ecolink

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

LOST_SECONDS = 120.0  # for Slurm to notice a lost node


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with real_cluster() as cluster:
        yield cluster


@contextmanager
def variables_of(settings: Mapping[str, Any]) -> Iterator[None]:
    """Set the environment variables of settings."""
    with pytest.MonkeyPatch.context() as variables:
        for name, value in settings.items():
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            variables.setenv(f"ECOLINK_{name}".upper(), text)
        yield


@pytest.fixture(scope="module")
def ecolink(
    cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EcoLinkUnderTest]:
    """A stack whose trainers run on the nodes of the cluster."""
    port = free_port()
    given: dict[str, Any] = {
        "home": tmp_path_factory.mktemp("home"),
        "heartbeat_seconds": 0.2,
        "meter_minute_seconds": 5,
        "grace_seconds": 8,
        "nats_port": port,
        "trainer_nats_url": f"nats://{cluster.host}:{port}",
    }
    of_cluster = slurm_settings(cluster)
    given["launcher"] = of_cluster.pop("launcher")
    of_cluster["slurm_prologue"] += "\nexport OMP_NUM_THREADS=1"
    with (
        variables_of(of_cluster),
        forwarding(cluster.host, port),
        running_ecolink(tmp_path_factory.mktemp("model"), Settings(**given)) as under_test,
    ):
        yield under_test


def node_of(cluster: SlurmCluster, path: str, segment: int) -> str:
    """The node that runs a segment of a job."""
    return slurm_job(cluster, path, segment)["nodes"]


def slurm_job(cluster: SlurmCluster, path: str, segment: int) -> dict[str, Any]:
    """The Slurm job of a segment."""
    name = str(PodName(UUID(path.rpartition("-")[2]), segment))

    def found() -> list[dict[str, Any]]:
        jobs = cluster.ask("/jobs/").json()["jobs"]
        return [each for each in jobs if each["name"] == name]

    (job,) = eventually(found)
    return job


def step_of(ecolink: EcoLinkUnderTest, path: str) -> int:
    return ecolink.client.get(path)["step"]


def checkpoints(ecolink: EcoLinkUnderTest, path: str) -> int:
    return len(ecolink.events(path, "CheckpointSaved"))


def test_a_job_survives_the_crash_of_its_node_at_a_random_step(
    ecolink: EcoLinkUnderTest, cluster: SlurmCluster, tmp_path: Path
) -> None:
    seed = int(os.environ.get("SLURM_TEST_SEED") or random.SystemRandom().randrange(10**6))
    dataset = ecolink.dataset(tmp_path, examples=200)
    path = ecolink.approve(dataset, epochs=40, gradient_accumulation=1, save_steps=100)
    (started,) = ecolink.await_events(path, "TrainingStarted", 1)
    total = started["total_steps"]
    step = random.Random(seed).randrange(100, total // 2)
    print(f"seed {seed}: crash after step {step} of {total}")
    eventually(lambda: step_of(ecolink, path) >= step, 300)
    crashed = node_of(cluster, path, 1)
    cluster.crash(crashed)
    (ended,) = eventually(lambda: ecolink.events(path, "SegmentEnded"), LOST_SECONDS)
    assert (ended["reason"], ended["failure"]) == ("crashed", "node_lost")

    ecolink.await_events(path, "TrainingStarted", 2)
    (other,) = set(NODES) - {crashed}
    assert node_of(cluster, path, 2) == other, "the crashed node is down"
    job = ecolink.await_end(path)
    assert (job["status"], job["segment"]) == ("registered", 2)
    assert_billed_as_the_trainer_logged(ecolink, path, job)
    assert audit(ecolink.settings).differences == []
    resumed = ecolink.events(path, "ResumeCertified")[0]["step"]
    print(f"{crashed} crashed, {other} resumed from step {resumed}; cost {job['cost']}")
    cluster.boot(crashed)
    eventually(lambda: "DOWN" not in cluster.node_states()[crashed], LOST_SECONDS)


def test_a_job_on_two_nodes_survives_the_crash_of_one(
    ecolink: EcoLinkUnderTest, cluster: SlurmCluster, tmp_path: Path
) -> None:
    count = len(NODES) * GPUS
    with acting_for_the_demo(ecolink.settings) as use_cases:
        catalog = Cataloging(use_cases.log)
        catalog.change(gpu_type_change("cpu", {"max_per_job": count}))
        catalog.change(lambda found: found.declare_capacity("local", "cpu", count))
    eventually(lambda: pool_capacity(ecolink) == count)
    dataset = ecolink.dataset(tmp_path, examples=40)
    chosen = {"epochs": 8, "gradient_accumulation": 1, "save_steps": 5}
    path = ecolink.approve(dataset, gpu_count=count, **chosen)
    ecolink.await_events(path, "CheckpointSaved", 1)
    assert node_of(cluster, path, 1) == "n[1-2]"
    crashed = random.Random(path).choice(NODES)
    cluster.crash(crashed)
    (ended,) = eventually(lambda: ecolink.events(path, "SegmentEnded"), LOST_SECONDS)
    assert (ended["reason"], ended["failure"]) == ("crashed", "node_lost")
    cluster.boot(crashed)

    ecolink.await_events(path, "TrainingStarted", 2)
    assert node_of(cluster, path, 2) == "n[1-2]", "one node has too few GPUs"
    job = ecolink.await_end(path)
    assert (job["status"], job["segment"], job["gpu_count"]) == ("registered", 2, count)
    assert_billed_as_the_trainer_logged(ecolink, path, job)
    assert audit(ecolink.settings).differences == []
    (resumed, *_) = ecolink.events(path, "ResumeCertified")
    print(f"{crashed} crashed; both resumed from step {resumed['step']}; cost {job['cost']}")


def pool_capacity(ecolink: EcoLinkUnderTest) -> int:
    with connect(ecolink.settings) as connection:
        return scalar(connection, "SELECT max(capacity) FROM gpu_pools WHERE region = 'local'")


def test_a_preemption_is_a_stop_at_the_cost_of_the_platform(
    ecolink: EcoLinkUnderTest, cluster: SlurmCluster, tmp_path: Path
) -> None:
    dataset = ecolink.dataset(tmp_path, examples=150)
    path = ecolink.approve(dataset, epochs=40, gradient_accumulation=1, save_steps=100)
    ecolink.await_events(path, "CheckpointSaved", 1)
    urgent = [submit_urgent(cluster) for _ in NODES]
    (ended,) = ecolink.await_events(path, "SegmentEnded", 1)
    assert (ended["reason"], ended["failure"]) == ("stopped", None)
    ecolink.await_events(path, "SegmentAllocated", 2)
    eventually(lambda: waits(cluster, path, 2))
    assert ecolink.client.get(path)["status"] == "training"
    for job_id in urgent:
        cluster.scontrol("update", f"JobId={job_id}", "TimeLimit=0")
    job = ecolink.await_end(path)
    assert (job["status"], job["segment"], job["crashes"]) == ("registered", 2, 0)
    assert audit(ecolink.settings).differences == []


def submit_urgent(cluster: SlurmCluster) -> int:
    """Submit a job that preempts others. Return its number."""
    token = cluster.token_file.read_text().strip().removeprefix("SLURM_JWT=")
    job = {
        "name": "urgent",
        "partition": URGENT,
        "current_working_directory": "/tmp",
        "environment": ["PATH=/usr/bin:/bin"],
        "standard_output": "/dev/null",
        "tres_per_node": f"gres/gpu:cpu:{GPUS}",
    }
    answer = httpx.post(
        f"{cluster.url}/slurm/v0.0.42/job/submit",
        headers={"X-SLURM-USER-NAME": USER, "X-SLURM-USER-TOKEN": token},
        json={"job": job, "script": "#!/bin/sh\nexec sleep 600\n"},
    )
    return answer.json()["job_id"]


def waits(cluster: SlurmCluster, path: str, segment: int) -> bool:
    return slurm_job(cluster, path, segment)["job_state"] == ["PENDING"]


def test_a_rest_api_that_is_away_ends_no_segment(
    ecolink: EcoLinkUnderTest, cluster: SlurmCluster, tmp_path: Path
) -> None:
    dataset = ecolink.dataset(tmp_path, examples=150)
    path = ecolink.approve(dataset, epochs=40, gradient_accumulation=1, save_steps=100)
    ecolink.await_events(path, "TrainingStarted", 1)
    cluster.stop_rest()
    seen = checkpoints(ecolink, path)
    eventually(lambda: checkpoints(ecolink, path) > seen + 1, 300)
    ecolink.kill("scheduler")
    seen = checkpoints(ecolink, path)
    eventually(lambda: checkpoints(ecolink, path) > seen, 300)
    cluster.start_rest()
    job = ecolink.await_end(path)
    assert (job["status"], job["segment"], job["crashes"]) == ("registered", 1, 0)
    assert_billed_as_the_trainer_logged(ecolink, path, job)
    assert audit(ecolink.settings).differences == []
