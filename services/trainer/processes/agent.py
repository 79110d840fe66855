"""The pod's program of several ranks: torch's elastic agent starts them, and they end together."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from services.model_libraries import lean_imports
from services.trainer.processes.followers import exit_path, how_ended, note_exit, rendezvous_path

if TYPE_CHECKING:
    from torch.distributed.elastic.agent.server.api import WorkerGroup
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

STOPS = (signal.SIGTERM, signal.SIGINT)
MONITOR_SECONDS = 0.1
START_POLL_SECONDS = 0.01
ANSWER_SECONDS = 150  # for rank 0 to notice a loss, to have its final report answered, and to exit


def launch(spec_path: Path, count: int, grace_seconds: float) -> int:
    """Run a segment in `count` processes of this machine; returns the exit code of rank 0.

    That is what `torchrun --standalone --nproc-per-node COUNT` does, but for three things. A stop
    is rank 0's alone to hear, as SIGINT; torchrun would end all ranks. Whoever is left when rank 0
    has ended is killed, for it waits for an answer that will not come. And rank 0 itself has a
    grace (of real time) to store what it has, and report, when another rank is lost.
    """
    # Before torch has threads, so that none is interrupted by a stop. The ranks inherit it: what
    # comes before a rank is ready to hear it waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    lean_imports()
    import torch

    os.environ["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // count))
    for path in (rendezvous_path(spec_path), *(exit_path(spec_path, n) for n in range(count))):
        path.unlink(missing_ok=True)
    be_patient(grace_seconds)
    agent = _make_agent(spec_path, count)
    ranks = RankProcesses(spec_path, agent.get_worker_group())
    ranks.attend()
    result = agent.run()
    # A decorator hides what `run` returns.
    failures: dict[int, ProcessFailure] = result.failures  # pyright: ignore[reportAttributeAccessIssue]
    codes = {rank: failure.exitcode for rank, failure in failures.items()} | ranks.codes
    return exit_code(codes.get(0, 0))


def _make_agent(spec_path: Path, count: int) -> LocalElasticAgent:
    """An agent that meets no other agent, and whose ranks meet without it."""
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.rendezvous import RendezvousParameters, registry

    # A rank that is killed because rank 0 has ended would be told as an error.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # Files instead of a store, which would listen on every network interface.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    folder = spec_path.with_name("ranks")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    meeting = RendezvousParameters(
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
        rdzv_handler=registry.get_rendezvous_handler(meeting),
        entrypoint=sys.executable,
        args=("-m", "services.trainer", str(spec_path), str(os.getpid())),
        max_restarts=0,  # the scheduler launches a segment again, from its last checkpoint
        monitor_interval=MONITOR_SECONDS,
        local_addr="localhost",
    )
    return LocalElasticAgent(spec, DefaultLogsSpecs(str(folder)))


def be_patient(grace_seconds: float) -> None:
    """Have torch's agents, in this process, wait longer for ranks to end before they kill them.

    It is half a minute after another rank failed, in which rank 0 may not be done with what it
    stores, or not be answered. Its watchdog ends it if it hangs.
    """
    from torch.distributed.elastic.multiprocessing.api import PContext

    seconds = math.ceil(grace_seconds) + ANSWER_SECONDS
    close = PContext.close

    def close_in_time(
        self: PContext, death_sig: signal.Signals | None = None, timeout: int = seconds
    ) -> None:
        close(self, death_sig, max(timeout, seconds))

    PContext.close = close_in_time


def exit_code(code: int) -> int:
    """An exit code as shells have it: 128 and the number of the signal that killed a process."""
    return code if code >= 0 else 128 - code


class RankProcesses:
    """What the agent does not do for its ranks: it passes stops on, and notes how each ended.

    Works in threads of its own; the agent has the main one.
    """

    def __init__(self, spec_path: Path, group: WorkerGroup) -> None:
        self._spec_path, self._group = spec_path, group
        self.codes: dict[int, int] = {}  # negative: the signal that killed it

    def attend(self) -> None:
        """Begin, before the ranks are started."""
        for rank in range(self._group.spec.local_world_size):
            self._begin(partial(self._await_end, rank))
        self._begin(self._pass_stops_on)

    def _begin(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, daemon=True).start()

    def _handle(self, rank: int) -> int:
        """A rank's process, once it is started: a handle that never means another one."""
        while (pid := self._group.workers[rank].id) is None:
            time.sleep(START_POLL_SECONDS)
        return os.pidfd_open(pid)

    def _await_end(self, rank: int) -> None:
        """Note how a rank ends, before the agent takes its exit code from the kernel."""
        try:
            end = os.waitid(os.P_PIDFD, self._handle(rank), os.WEXITED | os.WNOWAIT)
        except (ProcessLookupError, ChildProcessError):
            return  # it has taken it: `launch` hears of a failure from it
        assert end is not None
        code = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
        self.codes[rank] = code
        if code != 0 and (rank == 0 or 0 not in self.codes):
            print(how_ended(rank, code), flush=True)
        if rank == 0:
            for other in range(1, self._group.spec.local_world_size):
                self._kill(other)
        elif code != 0:
            note_exit(self._spec_path, rank, code)

    def _kill(self, rank: int) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle(rank), signal.SIGKILL)

    def _pass_stops_on(self) -> None:
        leader = self._handle(0)
        while True:
            signal.sigwait(STOPS)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(leader, signal.SIGINT)
