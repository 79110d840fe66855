"""A pod with several ranks, which torch's elastic agent starts and ends together."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from services.model_libraries import lean_imports
from services.trainer.context import rendezvous_path
from services.trainer.processes.followers import describe_exit, exit_path, record_exit

if TYPE_CHECKING:
    from torch.distributed.elastic.agent.server.api import WorkerGroup
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

STOPS = (signal.SIGTERM, signal.SIGINT)
MONITOR_SECONDS = 0.1
START_POLL_SECONDS = 0.01
ANSWER_SECONDS = 150  # for rank 0 to notice a lost rank, send its final report, and exit


def launch(spec_path: Path, count: int, grace_seconds: float) -> int:
    """Run a segment in `count` processes on this machine. Return the exit code of rank 0.

    Unlike `torchrun --standalone --nproc-per-node COUNT`, this function sends a stop to rank 0
    alone, as SIGINT. When rank 0 ends, the agent kills the other ranks. When another rank is lost,
    rank 0 has a grace period (in real seconds) to store its checkpoint and report.
    """
    # Before torch starts threads, so that a stop interrupts none. The ranks inherit the mask, so a
    # signal stays pending until a rank is ready for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    lean_imports()
    import torch

    os.environ["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // count))
    directory = spec_path.parent
    for path in (rendezvous_path(directory), *(exit_path(directory, n) for n in range(count))):
        path.unlink(missing_ok=True)
    extend_agent_timeout(grace_seconds)
    agent = _make_agent(spec_path, count)
    ranks = RankProcesses(directory, agent.get_worker_group())
    ranks.watch()
    result = agent.run()
    # A decorator hides the return type of `run`.
    failures: dict[int, ProcessFailure] = result.failures  # pyright: ignore[reportAttributeAccessIssue]
    codes = {rank: failure.exitcode for rank, failure in failures.items()} | ranks.codes
    code = codes.get(0, 0)
    return code if code >= 0 else 128 - code  # like a shell, for a signal


def _make_agent(spec_path: Path, count: int) -> LocalElasticAgent:
    """Return the only agent of a segment. The ranks connect to each other without it."""
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.rendezvous import RendezvousParameters, registry

    # Otherwise, torch logs an error for each rank that is killed because rank 0 has ended.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # Use files, because a TCP store would listen on every network interface.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    folder = spec_path.with_name("ranks")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    rendezvous = RendezvousParameters(
        backend="c10d",
        endpoint=str(folder / "rendezvous"),
        run_id="segment",
        min_nodes=1,
        max_nodes=1,
        local_addr="localhost",
        store_type="file",
    )
    spec = WorkerSpec(
        role="rank",
        local_world_size=count,
        rdzv_handler=registry.get_rendezvous_handler(rendezvous),
        entrypoint=sys.executable,
        args=("-m", "services.trainer", str(spec_path), str(os.getpid())),
        max_restarts=0,  # the scheduler relaunches a segment from its last checkpoint
        monitor_interval=MONITOR_SECONDS,
        local_addr="localhost",
    )
    return LocalElasticAgent(spec, DefaultLogsSpecs(str(folder)))


def extend_agent_timeout(grace_seconds: float) -> None:
    """Make torch's agents in this process wait longer before they kill ranks.

    By default, they wait 30 s after a rank fails. That may be too short for rank 0 to store its
    checkpoint and get its report acknowledged. If rank 0 hangs, its watchdog ends it.
    """
    from torch.distributed.elastic.multiprocessing.api import PContext

    seconds = math.ceil(grace_seconds) + ANSWER_SECONDS
    close = PContext.close

    def close_in_time(
        self: PContext, death_sig: signal.Signals | None = None, timeout: int = seconds
    ) -> None:
        close(self, death_sig, max(timeout, seconds))

    PContext.close = close_in_time


class RankProcesses:
    """Threads that forward stops to rank 0 and record how each rank ended."""

    def __init__(self, directory: Path, group: WorkerGroup) -> None:
        self._directory, self._group = directory, group
        self.codes: dict[int, int] = {}  # by rank; negative: signal number

    def watch(self) -> None:
        for rank in range(self._group.spec.local_world_size):
            threading.Thread(target=self._await_end, args=(rank,), daemon=True).start()
        threading.Thread(target=self._forward_stops, daemon=True).start()

    def _handle(self, rank: int) -> int:
        """Wait until the process of a rank starts. Return a file descriptor for it."""
        while (pid := self._group.workers[rank].id) is None:
            time.sleep(START_POLL_SECONDS)
        return os.pidfd_open(pid)

    def _await_end(self, rank: int) -> None:
        """Record the exit code of a rank before the agent reaps the process."""
        try:
            end = os.waitid(os.P_PIDFD, self._handle(rank), os.WEXITED | os.WNOWAIT)
        except (ProcessLookupError, ChildProcessError):
            return  # already reaped: the agent returns the failure to `launch`
        assert end is not None
        code = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
        self.codes[rank] = code
        if code != 0 and (rank == 0 or 0 not in self.codes):
            print(describe_exit(rank, code), flush=True)
        if rank == 0:
            for other in range(1, self._group.spec.local_world_size):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._handle(other), signal.SIGKILL)
        elif code != 0:
            record_exit(self._directory, rank, code)

    def _forward_stops(self) -> None:
        leader = self._handle(0)
        while True:
            signal.sigwait(STOPS)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(leader, signal.SIGINT)
