"""A pod with several ranks, which torch's elastic agents start and end together."""

from __future__ import annotations

import logging
import math
import os
import platform
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from infrastructure.training.reports import STOP
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


def launch(
    spec_path: Path, count: int, grace_seconds: float, nodes: int = 1, peer: str | None = None
) -> int:
    """Run the ranks of a segment that are on this machine. Return the exit code of rank 0.

    `count` is the number of ranks on all `nodes` together. Each node calls this function, and the
    nodes share the directory of the spec. They find each other by c10d rendezvous. Where rank 0 is
    on another node, return 0 when it has ended, or when a rank here fails. The ranks of different
    nodes use the network interface that leads to the host `peer`, unless the environment names one.

    Unlike `torchrun --standalone --nproc-per-node COUNT`, this function sends a stop to rank 0
    alone, as SIGINT. When rank 0 ends, the agent kills the other ranks. When another rank is lost,
    rank 0 has a grace period (in real seconds) to store its checkpoint and report.
    """
    # Before torch starts threads, so that a stop interrupts none. The ranks inherit the mask, so a
    # signal stays pending until a rank is ready for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    lean_imports()
    import torch

    here = count // nodes
    os.environ["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // here))
    directory = spec_path.parent
    if nodes > 1:  # another node may have started already; such pods have a new directory
        use_interface_to(peer)
    else:
        shutil.rmtree(_folder(spec_path), ignore_errors=True)
        for path in (rendezvous_path(directory), *(exit_path(directory, n) for n in range(count))):
            path.unlink(missing_ok=True)
    extend_agent_timeout(grace_seconds)
    agent = _make_agent(spec_path, here, nodes)
    ranks = RankProcesses(directory, agent.get_worker_group(), nodes)
    ranks.watch()
    result = agent.run()
    # A decorator hides the return type of `run`.
    failures: dict[int, ProcessFailure] = result.failures  # pyright: ignore[reportAttributeAccessIssue]
    codes = {rank: failure.exitcode for rank, failure in failures.items()} | ranks.codes
    code = codes.get(0, 0)
    return code if code >= 0 else 128 - code  # like a shell, for a signal


def _folder(spec_path: Path) -> Path:
    return spec_path.with_name("ranks")


def _make_agent(spec_path: Path, here: int, nodes: int) -> LocalElasticAgent:
    """Return the agent of this node. The ranks connect to each other without it."""
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.rendezvous import RendezvousParameters, registry

    # Otherwise, torch logs an error for each rank that is killed because rank 0 has ended.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # Use files, because a TCP store would listen on every network interface.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    folder = _folder(spec_path)
    folder.mkdir(exist_ok=True)
    address = "localhost" if nodes == 1 else platform.node()  # the agents need different names
    rendezvous = RendezvousParameters(
        backend="c10d",
        endpoint=str(folder / "rendezvous"),
        run_id="segment",
        min_nodes=nodes,
        max_nodes=nodes,
        local_addr=address,
        store_type="file",
    )
    spec = WorkerSpec(
        role="rank",
        local_world_size=here,
        rdzv_handler=registry.get_rendezvous_handler(rendezvous),
        entrypoint=sys.executable,
        args=("-m", "services.trainer", str(spec_path), str(os.getpid())),
        max_restarts=0,  # the scheduler relaunches a segment from its last checkpoint
        monitor_interval=MONITOR_SECONDS,
        local_addr=address,
    )
    # The other nodes end when rank 0 has ended, so its agent need not wait for them.
    return LocalElasticAgent(spec, DefaultLogsSpecs(str(folder)), exit_barrier_timeout=1)


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

    def __init__(self, directory: Path, group: WorkerGroup, nodes: int) -> None:
        self._directory, self._group, self._nodes = directory, group, nodes
        self._leader_ended = directory / "leader.ended"
        self.codes: dict[int, int] = {}  # by rank; negative: signal number

    def watch(self) -> None:
        for index in range(self._group.spec.local_world_size):
            threading.Thread(target=self._await_end, args=(index,), daemon=True).start()
        threading.Thread(target=self._forward_stops, daemon=True).start()
        if self._nodes > 1:
            threading.Thread(target=self._watch_files, daemon=True).start()

    def _handle(self, index: int) -> int:
        """Wait for a rank of this node to start. Return a descriptor. Its number is known then."""
        while (pid := self._group.workers[index].id) is None:
            time.sleep(START_POLL_SECONDS)
        return os.pidfd_open(pid)

    def _await_end(self, index: int) -> None:
        try:
            end = os.waitid(os.P_PIDFD, self._handle(index), os.WEXITED | os.WNOWAIT)
        except (ProcessLookupError, ChildProcessError):
            return  # already reaped: the agent returns the failure to `launch`
        assert end is not None
        code = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
        rank = self._group.workers[index].global_rank
        self.codes[rank] = code
        if self._leader_ended.exists():
            return  # this process killed the rank
        if code != 0 and (rank == 0 or 0 not in self.codes):
            print(describe_exit(rank, code), flush=True)
        if rank == 0:
            if self._nodes > 1:
                self._leader_ended.touch()
            self._kill(range(1, self._group.spec.local_world_size))
        elif code != 0:
            record_exit(self._directory, rank, code)

    def _kill(self, indices: Iterable[int]) -> None:
        for index in indices:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle(index), signal.SIGKILL)

    def _watch_files(self) -> None:
        """Wait for a stop or the end of a remote rank 0. Stop rank 0, or kill local ranks."""
        first = self._handle(0)
        leads = self._group.workers[0].global_rank == 0
        awaited = self._directory / STOP if leads else self._leader_ended
        while not awaited.exists():
            time.sleep(MONITOR_SECONDS)
        if leads:
            self._stop_leader(first)
        else:
            self._kill(range(self._group.spec.local_world_size))

    def _forward_stops(self) -> None:
        first = self._handle(0)
        while True:
            signal.sigwait(STOPS)
            if self._group.workers[0].global_rank == 0:
                self._stop_leader(first)

    def _stop_leader(self, handle: int) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGINT)


def use_interface_to(peer: str | None) -> None:
    """Make gloo and NCCL use the network interface of the route to a host.

    Otherwise they use the address that the host name resolves to, which is often loopback.
    """
    if peer is None:
        return
    try:
        family, _, _, _, address = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # sends nothing
            own = probe.getsockname()[0]
    except OSError:
        return
    for name, addresses in psutil.net_if_addrs().items():
        if own in [each.address for each in addresses]:
            for library in ("GLOO", "NCCL"):
                os.environ.setdefault(f"{library}_SOCKET_IFNAME", name)
