"""A client of slurmrestd, the REST API of a Slurm cluster."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from services.scheduler.launchers.launcher import LauncherUnavailable

API = "/slurm/v0.0.42"
"""Version of the API, which Slurm 24.11, 25.05 and 25.11 have."""

TIMEOUT_SECONDS = 10.0

# Error numbers of Slurm (slurm_errno.h)
REFUSED_TOKEN = 1007
FIRST_OF_SLURMCTLD = 2000
"""Smallest error number with which slurmctld itself refuses a request.

Smaller ones are of the communication with it: 11 try again, 1007 refused token, 1800 not reachable,
and -1 for a query of states while it is down.
"""
UNKNOWN_JOB = 2017
ENDED_JOB = 2021

PASSING = frozenset({2002, 2016, 2037, 2040, 2045, 2050, 2055, 2068, 2070, 2074, 2101, 2105})
"""Error numbers of a refused submission that is no fault of the job.

They are a limit (2050, 2074), busy or unavailable nodes, licenses, reservations or partitions
(2016, 2040, 2055, 2068, 2070, 2101), disabled submissions (2037, 2105), and an account or a right
that an operator can add (2002, 2045).
"""

COMPLETING = "COMPLETING"
"""Flag of a job whose processes Slurm ends."""

ALIVE = frozenset({"RUNNING", "SUSPENDED", "STOPPED", COMPLETING, "SIGNALING", "STAGE_OUT"})
"""States and flags of a job whose processes may run."""

QUEUED = frozenset({"PENDING", "CONFIGURING"})
"""States and flags of a job that waits for nodes, or for its nodes to boot."""

UNUSABLE = frozenset(
    {
        *("DOWN", "ERROR", "UNKNOWN", "INVALID", "FUTURE"),
        *("DRAIN", "FAIL", "NOT_RESPONDING", "INVALID_REG", "MAINTENANCE", "REBOOT_ISSUED"),
    }
)
"""States and flags of a node that starts no jobs. A powered-down node of a cloud does."""


class SlurmRefused(Exception):
    """Slurm refuses a request. The text is Slurm's."""

    def __init__(self, error: _Error) -> None:
        super().__init__(_shown(error))
        self.number = error.error_number

    @property
    def may_pass(self) -> bool:
        """True if the same submission may be accepted later."""
        return self.number in PASSING


class _Number(BaseModel):
    set: bool
    number: int


class _ExitCode(BaseModel):
    return_code: _Number


class _JobRow(BaseModel):
    job_id: int
    name: str
    job_state: frozenset[str]
    state_reason: str
    nodes: str
    node_count: _Number
    submit_time: _Number
    start_time: _Number
    exit_code: _ExitCode


class _StateRow(BaseModel):
    job_id: int
    state: frozenset[str]


class _NodeRow(BaseModel):
    name: str
    state: frozenset[str]
    partitions: tuple[str, ...]
    gres: str


class _PartitionState(BaseModel):
    state: frozenset[str]


class _PartitionRow(BaseModel):
    name: str
    partition: _PartitionState


class _Submitted(BaseModel):
    job_id: int


class _Error(BaseModel):
    error_number: int = 0
    error: str = ""
    description: str = ""


class _Errors(BaseModel):
    errors: tuple[_Error, ...] = ()


Row = TypeVar("Row", bound=BaseModel)


@dataclass(frozen=True)
class SlurmJob:
    """A job of the cluster."""

    id: int
    name: str
    states: frozenset[str]  # a base state and flags
    reason: str  # why it is queued or has ended
    nodes: str  # empty until it has nodes
    node_count: int
    waited_seconds: int  # between its submission and its start, by the clock of Slurm
    exit_code: int  # of the batch script; 0 if a signal ended it

    @property
    def queued(self) -> bool:
        """True if the job has not started yet."""
        return bool(self.states & QUEUED)

    @property
    def alive(self) -> bool:
        """True if processes of the job may run."""
        return alive(self.states)

    @property
    def shown(self) -> str:
        """The states and the reason, for an error message."""
        states = "+".join(sorted(self.states))
        return states if self.reason in ("", "None") else f"{states} ({self.reason})"


@dataclass(frozen=True)
class SlurmNode:
    """A node of the cluster with its GPUs by gres type; an untyped GPU has the type ''."""

    name: str
    usable: bool
    partitions: tuple[str, ...]
    gpus: Mapping[str, int]


def alive(states: frozenset[str]) -> bool:
    """Return True if processes of a job in these states may run."""
    return bool(states & ALIVE)


def gpus_of(gres: str) -> dict[str, int]:
    """Return the number of GPUs by type of a node's gres, such as `gpu:a100:4(S:0-1),mps:100`."""
    counts: dict[str, int] = {}
    for each in re.sub(r"\([^)]*\)", "", gres).split(","):
        if found := re.fullmatch(r"gpu(?::([^:]+))?:(\d+)", each.strip()):
            counts[found[1] or ""] = counts.get(found[1] or "", 0) + int(found[2])
    return counts


class SlurmRest:
    """A thread-safe client of slurmrestd, with the JWT in `token_file`.

    The file contains the token, or the output of `scontrol token` (`SLURM_JWT=...`). The client
    reads it before every request, so that an operator or a cron job can renew it.

    Every method raises LauncherUnavailable if slurmrestd or slurmctld does not answer, or refuses
    the token.
    """

    def __init__(self, url: str, user: str, token_file: Path) -> None:
        self._user, self._token_file = user, token_file
        self._client = httpx.Client(base_url=url.rstrip("/") + API, timeout=TIMEOUT_SECONDS)
        self._away = False
        self._lock = threading.Lock()
        self._logger = logging.getLogger("slurm")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ping(self) -> None:
        """Return if slurmctld answers."""
        self._ask("GET", "/ping/")

    def submit(self, job: Mapping[str, Any], script: str) -> int:
        """Submit a batch job. Return its number. Raise SlurmRefused if Slurm does not accept it."""
        response = self._ask("POST", "/job/submit", json={"job": dict(job), "script": script})
        return _parsed(_Submitted, response).job_id

    def job(self, job_id: int) -> SlurmJob | None:
        """Return a job, or None if Slurm does not know it, such as some minutes after its end."""
        response = self._ask("GET", f"/job/{job_id}", unknown=True)
        return next(iter(_jobs(response)), None)

    def jobs_named(self, name: str) -> list[SlurmJob]:
        """Return the jobs of this name that Slurm knows, oldest first."""
        found = (each for each in _jobs(self._ask("GET", "/jobs/")) if each.name == name)
        return sorted(found, key=lambda job: job.id)

    def states(self) -> dict[int, frozenset[str]]:
        """Return the state and flags of all jobs that Slurm knows, by number."""
        rows = _rows(_StateRow, self._ask("GET", "/jobs/state/"), "jobs")
        return {row.job_id: row.state for row in rows}

    def signal(self, job_id: int, name: str) -> None:
        """Send a signal to the batch process of a running job, if it exists."""
        self._send_signal(job_id, {"signal": name, "flags": "BATCH_JOB"})

    def cancel(self, job_id: int) -> None:
        """End a job, if it exists: remove it from the queue, or kill all its processes."""
        self._send_signal(job_id, {"signal": "SIGKILL"})

    def _send_signal(self, job_id: int, parameters: Mapping[str, str]) -> None:
        try:
            self._ask("DELETE", f"/job/{job_id}", params=parameters)
        except SlurmRefused as refused:
            if refused.number not in (UNKNOWN_JOB, ENDED_JOB):
                raise LauncherUnavailable(
                    f"Slurm does not signal job {job_id}: {refused}"
                ) from refused

    def nodes(self) -> list[SlurmNode]:
        """Return all nodes."""
        rows = _rows(_NodeRow, self._ask("GET", "/nodes/"), "nodes")
        return [
            SlurmNode(row.name, not row.state & UNUSABLE, row.partitions, gpus_of(row.gres))
            for row in rows
        ]

    def partitions(self) -> dict[str, bool]:
        """Return all partitions; True if it starts jobs."""
        rows = _rows(_PartitionRow, self._ask("GET", "/partitions/"), "partitions")
        return {row.name: "UP" in row.partition.state for row in rows}

    def _ask(
        self,
        method: str,
        path: str,
        *,
        unknown: bool = False,
        json: Any = None,
        params: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Return a response as JSON. With `unknown`, an unknown job is no error."""
        try:
            response = self._request(method, path, json, params)
            errors = _parsed(_Errors, response).errors
            for error in errors:
                if error.error_number < FIRST_OF_SLURMCTLD:
                    raise LauncherUnavailable(f"Slurm does not answer: {_shown(error)}.")
        except LauncherUnavailable as failure:
            self._note(failure)
            raise
        self._note(None)
        if errors and not (unknown and errors[0].error_number == UNKNOWN_JOB):
            raise SlurmRefused(errors[0])
        return response

    def _request(
        self, method: str, path: str, json: Any, params: Mapping[str, str] | None
    ) -> dict[str, Any]:
        """Send a request, again if slurmrestd refuses a token that was renewed meanwhile."""
        token = self._token()
        response = self._send(method, path, json, params, token)
        if _refuses_token(response) and (renewed := self._token()) != token:
            response = self._send(method, path, json, params, renewed)
        if _refuses_token(response):
            raise LauncherUnavailable(
                f"slurmrestd refuses the token of user {self._user!r} in {self._token_file}. Write "
                f"a new one with `scontrol token username={self._user} lifespan=SECONDS`."
            )
        try:
            content = response.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise LauncherUnavailable(
                f"{self._client.base_url} is no slurmrestd, or has no API {API}: it returns "
                f"{response.status_code}, {response.text[:100]!r}. Check ECOLINK_SLURM_URL."
            )
        return content

    def _send(
        self, method: str, path: str, json: Any, params: Mapping[str, str] | None, token: str
    ) -> httpx.Response:
        headers = {"X-SLURM-USER-NAME": self._user, "X-SLURM-USER-TOKEN": token}
        try:
            return self._client.request(method, path, json=json, params=params, headers=headers)
        except httpx.HTTPError as error:
            raise LauncherUnavailable(
                f"slurmrestd at {self._client.base_url.host}:{self._client.base_url.port} does not "
                f"answer: {type(error).__name__}: {error}"
            ) from error

    def _token(self) -> str:
        try:
            return self._token_file.read_text().strip().removeprefix("SLURM_JWT=")
        except OSError as error:
            raise LauncherUnavailable(
                f"Cannot read the token of ECOLINK_SLURM_TOKEN_FILE {self._token_file}: "
                f"{error.strerror}."
            ) from error

    def _note(self, failure: LauncherUnavailable | None) -> None:
        with self._lock:
            changed, self._away = self._away != (failure is not None), failure is not None
        if changed and failure is not None:
            self._logger.warning("%s", failure)
        elif changed:
            self._logger.info("slurmrestd answers again")


def _refuses_token(response: httpx.Response) -> bool:
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return True
    if response.is_success:
        return False
    try:
        errors = _Errors.model_validate_json(response.content).errors
    except ValidationError:
        return False
    return any(each.error_number == REFUSED_TOKEN for each in errors)


def _jobs(response: dict[str, Any]) -> list[SlurmJob]:
    return [
        SlurmJob(
            row.job_id,
            row.name,
            row.job_state,
            row.state_reason,
            row.nodes,
            row.node_count.number,
            max(0, row.start_time.number - row.submit_time.number),
            row.exit_code.return_code.number,
        )
        for row in _rows(_JobRow, response, "jobs")
    ]


def _rows(kind: type[Row], response: dict[str, Any], key: str) -> Sequence[Row]:
    return [_parsed(kind, each) for each in response.get(key) or ()]


def _parsed(kind: type[Row], value: Any) -> Row:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise LauncherUnavailable(f"slurmrestd gives an unknown response: {error}") from error


def _shown(error: _Error) -> str:
    return f"{error.description or 'error'}: {error.error} ({error.error_number})"
