"""A fake slurmrestd, whose answers were recorded from a real one. It runs jobs as processes here.

`tests.extensions.slurm.record` records the answers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.extensions.slurm.cluster import GPUS, NODES, PARTITION, URGENT, USER

API = "/slurm/v0.0.42"
ANSWERS = Path(__file__).with_name("answers")
TOKEN = "a.valid.token"

STATES = {
    "PENDING": "job_pending",
    "RUNNING": "job_running",
    "COMPLETED": "job_completed",
    "FAILED": "job_failed",
    "CANCELLED": "job_cancelled",
    "CANCELLED_QUEUED": "job_cancelled_queued",
    "COMPLETING": "job_completing",
    "PREEMPTED": "job_preempted",
    "NODE_FAIL": "job_node_fail",
}
"""Recorded answer of each state."""


@cache
def _recorded(name: str) -> dict[str, Any]:
    return json.loads((ANSWERS / f"{name}.json").read_text())


def recorded(name: str) -> tuple[int, Any]:
    """Return the status and a copy of the content of a recorded answer."""
    answer = _recorded(name)
    return answer["status"], deepcopy(answer["body"])


@dataclass
class FakeJob:
    """A submitted job."""

    id: int
    description: dict[str, Any]
    script: str
    state: str = "PENDING"
    waited_seconds: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def gpus(self) -> int:
        return int(self.description["tres_per_node"].rpartition(":")[2])


class FakeSlurm:
    """A cluster in memory, with one queue for its GPUs."""

    def __init__(self, folder: Path) -> None:
        self.directory = folder / "pods"
        self.directory.mkdir()
        self.token_file = folder / "token"
        self.token_file.write_text(f"SLURM_JWT={TOKEN}\n")
        self.token_file.chmod(0o600)
        self.token = TOKEN
        self.gpus = GPUS * len(NODES)
        self.url = ""
        self.jobs: dict[int, FakeJob] = {}
        self.away = False
        """True: slurmctld does not answer."""
        self.loses_answers = False
        """True: slurmrestd ends after it has passed on a submission."""
        self.waiting_seconds = 0
        """Time that the jobs that start now waited in the queue, by the clock of Slurm."""
        self.refusal: int | None = None
        """Error number with which slurmctld refuses submissions."""
        self.nodes = "nodes"
        """Recorded answer about the nodes."""
        self._lock = Lock()

    def lose(self, job_id: int, state: str = "NODE_FAIL") -> None:
        """Kill a job with its node, or for another reason."""
        with self._lock:
            self._end(self.jobs[job_id], state)

    def forget(self, job_id: int) -> None:
        """Forget an ended job, as slurmctld does after MinJobAge."""
        with self._lock:
            del self.jobs[job_id]

    def close(self) -> None:
        """Kill all jobs."""
        with self._lock:
            for job in self.jobs.values():
                self._end(job, "CANCELLED")

    def answer(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        """Return the status and the content of an answer."""
        with self._lock:
            if self.away:
                return recorded("no_controller" if method == "GET" else "no_controller_submit")
            self._advance()
            place, _, query = path.partition("?")
            match method, place.strip("/").split("/"):
                case "GET", ["ping" | "partitions" as name]:
                    return recorded(name)
                case "GET", ["nodes"]:
                    return recorded(self.nodes)
                case "POST", ["job", "submit"]:
                    return self._submit(body or {})
                case "GET", ["jobs", "state"]:
                    return self._states()
                case "GET", ["jobs"]:
                    status, content = recorded("job_running")
                    jobs = (self._shown(each)[1]["jobs"][0] for each in self.jobs.values())
                    return status, content | {"jobs": list(jobs)}
                case "GET", ["job", job_id]:
                    job = self.jobs.get(int(job_id))
                    return recorded("job_unknown") if job is None else self._shown(job)
                case "DELETE", ["job", job_id]:
                    return self._signal(int(job_id), parse_qs(query)["signal"][0])
                case _:
                    return HTTPStatus.NOT_FOUND, "Unable find requested URL"

    def _submit(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.refusal is not None:
            status, content = recorded("refused_gpus")
            (error,) = content["errors"][:1]
            return status, content | {"errors": [error | {"error_number": self.refusal}]}
        description = body["job"]
        if description["partition"] not in (PARTITION, URGENT):
            return recorded("refused_partition")
        job = FakeJob(len(self.jobs) + 1, description, body["script"])
        if job.gpus > GPUS:
            return recorded("refused_gpus")
        self.jobs[job.id] = job
        self._advance()
        status, content = recorded("submitted")
        return status, content | {"job_id": job.id}

    def _advance(self) -> None:
        """Notice the ends of jobs, and start queued ones whose GPUs are free."""
        for job in self.jobs.values():
            if (
                job.state == "RUNNING"
                and job.process is not None
                and job.process.poll() is not None
            ):
                job.state = "COMPLETED" if job.process.returncode == 0 else "FAILED"
        for job in self.jobs.values():
            if job.state == "PENDING" and self._may_start(job):
                self._start(job)

    def _may_start(self, job: FakeJob) -> bool:
        running = [each for each in self.jobs.values() if each.state == "RUNNING"]
        names = {each.description["name"] for each in running}
        if job.description.get("dependency") == "singleton" and job.description["name"] in names:
            return False
        return sum(each.gpus for each in running) + job.gpus <= self.gpus

    def _start(self, job: FakeJob) -> None:
        environment = dict(each.split("=", 1) for each in job.description["environment"])
        with Path(job.description["standard_output"].replace("%%", "%")).open("ab") as log:
            job.process = subprocess.Popen(
                ["/bin/sh", "-c", job.script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=job.description["current_working_directory"],
                env=environment | {"SLURM_JOB_ID": str(job.id)},
                start_new_session=True,
            )
        job.state, job.waited_seconds = "RUNNING", self.waiting_seconds

    def _end(self, job: FakeJob, state: str) -> None:
        if job.state == "PENDING":
            job.state = "CANCELLED_QUEUED"
        if job.state != "RUNNING" or job.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(job.process.pid, signal.SIGKILL)
        job.process.wait()
        job.state = state

    def _signal(self, job_id: int, name: str) -> tuple[int, Any]:
        job = self.jobs.get(job_id)
        if job is None:
            return recorded("signal_unknown")
        if name == "SIGKILL":
            self._end(job, "CANCELLED")
        elif job.state == "RUNNING" and job.process is not None:
            job.process.send_signal(getattr(signal, name))
        return recorded("signalled")

    def _states(self) -> tuple[int, Any]:
        status, content = recorded("states")
        rows = [
            {"job_id": str(job.id), "state": self._shown(job)[1]["jobs"][0]["job_state"]}
            for job in self.jobs.values()
        ]
        return status, content | {"jobs": rows}

    def _shown(self, job: FakeJob) -> tuple[int, Any]:
        status, content = recorded(STATES[job.state])
        row = content["jobs"][0]
        row |= {"job_id": job.id, "name": job.description["name"]}
        submitted = row["submit_time"]["number"]
        row["start_time"]["number"] = submitted + job.waited_seconds
        if job.state == "FAILED" and job.process is not None:
            row["exit_code"]["return_code"]["number"] = max(0, job.process.returncode)
        return status, content


@contextmanager
def fake_slurm(folder: Path) -> Iterator[FakeSlurm]:
    """Serve a fake cluster with files in a folder."""
    slurm = FakeSlurm(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            content = self.rfile.read(length)
            token = self.headers.get("X-SLURM-USER-TOKEN")
            if token is None or self.headers.get("X-SLURM-USER-NAME") != USER:
                answer = recorded("no_token")
            elif token != slurm.token:
                answer = recorded("refused_token")
            else:
                url = urlsplit(self.path)
                path = f"{url.path.removeprefix(API)}?{url.query}"
                body = json.loads(content) if content else None
                answer = slurm.answer(self.command, path, body)
            if slurm.loses_answers and self.command == "POST":
                self.close_connection = True
                return
            status, shown = answer
            text = (shown if isinstance(shown, str) else json.dumps(shown)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = _reply

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    slurm.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield slurm
    finally:
        slurm.close()
        server.shutdown()
        server.server_close()
