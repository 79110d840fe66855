"""The ranks of a segment on several nodes of a real Slurm cluster."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from extensions.slurm.launcher import SlurmLauncher
from extensions.slurm.settings import SlurmSettings
from infrastructure.training.reports import SegmentSpec
from services.scheduler.launchers.launcher import Pod, PodName
from tests.builders.commands import FixedClock
from tests.builders.tiny_model import chats
from tests.extensions.slurm.cluster import SlurmCluster
from tests.extensions.slurm.forwarder import forwarding
from tests.extensions.slurm.rows import real_cluster, slurm_settings
from tests.polling import eventually
from tests.services.scheduler.launchers.test_launcher import launched, living, shipped_catalog
from tests.services.trainer.program import NatsServer
from tests.services.trainer.segments import Trainer

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

END_SECONDS = 300.0


@pytest.fixture
def cluster() -> Iterator[SlurmCluster]:
    """Two nodes with one GPU each."""
    with real_cluster(gpus=1) as cluster:
        yield cluster


@pytest.fixture
def launcher(
    cluster: SlurmCluster, nats_server: NatsServer, trainer: Trainer, tmp_path: Path
) -> Iterator[SlurmLauncher]:
    port = urlsplit(nats_server.url).port
    assert port is not None
    given = slurm_settings(cluster)
    given["slurm_prologue"] += "\nexport OMP_NUM_THREADS=1"
    given |= {"home": tmp_path / "home", "artifacts_url": trainer.url}
    given |= {"nats_url": nats_server.url, "trainer_nats_url": f"nats://{cluster.host}:{port}"}
    with forwarding(cluster.host, port):
        launcher = SlurmLauncher(SlurmSettings(**given), FixedClock(), shipped_catalog)
        yield launcher
        for name in launcher.pods():
            launcher.remove(name)
        launcher.close()


def name_of(spec: SegmentSpec) -> PodName:
    return PodName(spec.job_id, spec.segment)


def await_log(launcher: SlurmLauncher, spec: SegmentSpec, text: str) -> None:
    def found() -> bool:
        log = launcher.log(name_of(spec), 100_000).decode()
        assert text in log or living(launcher, name_of(spec)), log
        return text in log

    eventually(found, END_SECONDS)


def ended(launcher: SlurmLauncher, spec: SegmentSpec) -> Pod:
    eventually(lambda: not living(launcher, name_of(spec)), END_SECONDS)
    pod = launcher.poll(name_of(spec))
    assert pod is not None
    return pod


def test_two_nodes_train_the_same_adapter_as_two_ranks_on_one_node(
    launcher: SlurmLauncher,
    cluster: SlurmCluster,
    start: Callable,
    nats_server: NatsServer,
    trainer: Trainer,
) -> None:
    chosen = {"epochs": 3, "dropout": 0.1, "gradient_accumulation": 2}
    one_node, two_nodes = (trainer.spec(chosen, gpu_count=2) for _ in range(2))
    program = start(one_node)
    program.await_line(r"^report .* outcome=completed")
    nats_server.answer(one_node)
    assert program.wait() == 0

    launched(launcher, two_nodes)
    (job,) = cluster.ask("/jobs/").json()["jobs"]
    assert job["nodes"] == "n[1-2]"
    await_log(launcher, two_nodes, "outcome=completed")
    nats_server.answer(two_nodes)
    assert ended(launcher, two_nodes).exit_code == 0
    expected = trainer.adapter_sha256(one_node)
    assert trainer.adapter_sha256(two_nodes) == expected
    last, other = (nats_server.reports(each)[-1] for each in (one_node, two_nodes))
    assert other["evaluation"] == last["evaluation"]
    print(f"adapter {expected}: {last['total_steps']} steps on one node and on two")


def test_a_stop_reaches_rank_0_on_any_node(
    launcher: SlurmLauncher, nats_server: NatsServer, trainer: Trainer
) -> None:
    spec = trainer.spec({"epochs": 60, "save_steps": 15}, chats(2000), gpu_count=2)
    launched(launcher, spec)
    await_log(launcher, spec, "phase=training step=1")
    launcher.stop(name_of(spec))
    await_log(launcher, spec, "outcome=stopped")
    nats_server.answer(spec)
    assert ended(launcher, spec).exit_code == 0
    final = nats_server.reports(spec)[-1]
    assert final["checkpoint"]["step"] == final["step"] > 0


def test_a_crash_of_one_node_loses_the_whole_pod(
    launcher: SlurmLauncher, cluster: SlurmCluster, trainer: Trainer
) -> None:
    spec = trainer.spec({"epochs": 60, "save_steps": 15}, chats(2000), gpu_count=2)
    launched(launcher, spec)
    await_log(launcher, spec, "phase=training step=1")
    cluster.crash("n2")
    assert ended(launcher, spec).exit_code in (None, 1, 128 + signal.SIGKILL)
