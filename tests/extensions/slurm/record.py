"""Records the answers of a real Slurm for the fake one.

`python -m tests.extensions.slurm.record`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from tests.extensions.slurm.cluster import (
    GPUS,
    PARTITION,
    URGENT,
    USER,
    SlurmCluster,
    missing,
    slurm_cluster,
)
from tests.polling import eventually

ANSWERS = Path(__file__).with_name("answers")
LOST_SECONDS = 120.0  # for Slurm to notice a lost node
TRAPPING = "#!/bin/sh\ntrap '' TERM\nwhile true; do sleep 1; done\n"
"""A job that ignores SIGTERM, so that Slurm kills it after KillWait."""


class Recorder:
    """Requests to a cluster whose answers are kept in files."""

    def __init__(self, cluster: SlurmCluster) -> None:
        self._cluster = cluster

    def ask(self, method: str, path: str, token: str | None = None, **more: Any) -> httpx.Response:
        """Send a request with the valid token, or with another one; '' sends none."""
        valid = self._cluster.token_file.read_text().strip().removeprefix("SLURM_JWT=")
        headers = {"X-SLURM-USER-NAME": USER, "X-SLURM-USER-TOKEN": token or valid}
        return httpx.request(
            method,
            f"{self._cluster.url}/slurm/v0.0.42{path}",
            headers=headers if token != "" else {},
            timeout=60,
            **more,
        )

    def keep(self, name: str, answer: httpx.Response) -> Any:
        """Write an answer to a file, without paths of this machine. Return its content."""
        try:
            body = json.loads(answer.text.replace(str(self._cluster.root), "/slurm"))
        except ValueError:
            body = answer.text
        content = {"status": answer.status_code, "body": body}
        (ANSWERS / f"{name}.json").write_text(json.dumps(content, sort_keys=True) + "\n")
        print(f"{name}: {answer.status_code}", flush=True)
        return body

    def submit(self, name: str, script: str, **changes: Any) -> httpx.Response:
        """Submit a job for all GPUs of a node."""
        job: dict[str, Any] = {
            "name": name,
            "partition": PARTITION,
            "current_working_directory": "/tmp",
            "environment": ["PATH=/usr/bin:/bin"],
            "standard_output": "/dev/null",
            "tres_per_node": f"gres/gpu:cpu:{GPUS}",
            "tasks": 1,
            "requeue": False,
        }
        return self.ask("POST", "/job/submit", json={"job": job | changes, "script": script})

    def job(self, job_id: int) -> httpx.Response:
        """GET a job."""
        return self.ask("GET", f"/job/{job_id}")

    def state_of(self, job_id: int) -> list[str]:
        """Return the state and flags of a job."""
        return self.job(job_id).json()["jobs"][0]["job_state"]

    def await_state(self, job_id: int, *states: str) -> httpx.Response:
        """Wait until a job has exactly these states. Return the answer."""
        reached: Callable[[], bool] = lambda: sorted(self.state_of(job_id)) == sorted(states)  # noqa: E731
        eventually(reached, LOST_SECONDS)
        return self.job(job_id)

    def started(self, name: str, script: str = TRAPPING, **changes: Any) -> int:
        """Submit a job and wait until it runs. Return its number."""
        job_id = self.submit(name, script, **changes).json()["job_id"]
        self.await_state(job_id, "RUNNING")
        return job_id

    def end(self, job_id: int) -> httpx.Response:
        """Kill a job."""
        return self.ask("DELETE", f"/job/{job_id}", params={"signal": "SIGKILL"})


def record(cluster: SlurmCluster) -> None:
    """Record the answer to each kind of request, and each state of a job."""
    recorder = Recorder(cluster)
    keep, ask = recorder.keep, recorder.ask
    for name in ("ping", "nodes", "partitions"):
        keep(name, ask("GET", f"/{name}/"))
    keep("refused_token", ask("GET", "/nodes/", token="a.b.c"))
    keep("no_token", ask("GET", "/nodes/", token=""))
    keep("refused_partition", recorder.submit("a", TRAPPING, partition="none"))
    keep("refused_gpus", recorder.submit("a", TRAPPING, tres_per_node="gres/gpu:cpu:99"))
    keep("job_unknown", recorder.job(424_242))
    keep("signal_unknown", recorder.end(424_242))

    first = recorder.started("first")
    second = recorder.started("second")
    submitted = keep("submitted", recorder.submit("third", TRAPPING))
    keep("job_running", recorder.job(first))
    keep("job_pending", recorder.await_state(submitted["job_id"], "PENDING"))
    keep("states", ask("GET", "/jobs/state/"))
    signal = {"signal": "SIGTERM", "flags": "BATCH_JOB"}
    keep("signalled", ask("DELETE", f"/job/{first}", params=signal))
    recorder.end(submitted["job_id"])
    cancelled = recorder.await_state(submitted["job_id"], "CANCELLED")
    keep("job_cancelled_queued", cancelled)
    recorder.end(first)
    keep("job_completing", recorder.job(first))
    keep("job_cancelled", recorder.await_state(first, "CANCELLED"))

    done = recorder.submit("done", "#!/bin/sh\nexit 0\n").json()["job_id"]
    keep("job_completed", recorder.await_state(done, "COMPLETED"))
    failed = recorder.submit("failed", "#!/bin/sh\nexit 7\n").json()["job_id"]
    keep("job_failed", recorder.await_state(failed, "FAILED"))

    both = recorder.started("third")
    urgent = recorder.submit("urgent", TRAPPING, partition=URGENT).json()["job_id"]
    running = {both, second}
    eventually(lambda: any(recorder.state_of(each) != ["RUNNING"] for each in running))
    preempted = next(each for each in running if recorder.state_of(each) != ["RUNNING"])
    keep("job_preempted", recorder.await_state(preempted, "PREEMPTED"))
    recorder.await_state(urgent, "RUNNING")
    (left,) = running - {preempted}
    node = recorder.job(left).json()["jobs"][0]["nodes"]
    cluster.crash(node)
    keep("job_node_fail", recorder.await_state(left, "NODE_FAIL"))
    keep("nodes_down", ask("GET", "/nodes/"))
    recorder.end(urgent)
    cluster.stop_controller()
    keep("no_controller", ask("GET", "/jobs/state/"))
    keep("no_controller_submit", recorder.submit("a", TRAPPING))


def main() -> int:
    """Record all answers. Return the exit code."""
    if reason := missing():
        print(reason, file=sys.stderr)
        return 1
    ANSWERS.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="slurm") as folder:
        root = Path(folder)
        root.chmod(0o755)
        with slurm_cluster(root / "c") as cluster:
            record(cluster)
    return 0


if __name__ == "__main__":
    sys.exit(main())
