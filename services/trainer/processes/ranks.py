"""The ranks of data parallelism: which one this process is, and what they say to each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils.dataclasses import DistributedDataParallelKwargs
from torch import Tensor, nn

LEADER_DONE = "leader done"


@dataclass
class Alike(DistributedDataParallelKwargs):
    """For models that every rank made alike: none has to send its gigabytes to the others.

    The fields are arguments of torch's DistributedDataParallel; what differs from a default of this
    class reaches it.
    """

    init_sync: bool = True
    forward_sync_buffers: bool = True


class Ranks:
    """One of `count` processes of this machine; rank 0 leads: it reports, decides and writes.

    Gradients are averaged once a step, by torch's DistributedDataParallel, in the backward pass of
    its last micro batch; all else that the ranks say to each other is here.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        store: dist.Store | None = None,  # pyright: ignore[reportPrivateImportUsage]
    ) -> None:
        """The store is where several ranks find each other."""
        self._accelerator, self._store = accelerator, store
        self.rank, self.count = accelerator.process_index, accelerator.num_processes
        # accelerate counts CPUs too, and safetensors knows only one.
        on_cpu = accelerator.device.type == "cpu"
        self.device = torch.device("cpu") if on_cpu else accelerator.device

    @classmethod
    def alone(cls) -> Ranks:
        """A segment without others, on the GPU if there is one."""
        return cls(Accelerator(cpu=not torch.cuda.is_available()))

    @classmethod
    def join(cls, rendezvous: Path, stall_seconds: float) -> Ranks:
        """Meet the other ranks: NCCL between GPUs, gloo between CPUs, over the loopback interface.

        GPUs' ranks have both: what is said of a tensor goes by where it is.

        Which rank of how many this is, is in the environment, as torch's launcher has it. They find
        each other in a file, which must be new. Each takes a GPU of its own. Raises RuntimeError if
        the machine has fewer GPUs than ranks.
        """
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
        on_gpus = torch.cuda.is_available()
        if on_gpus:
            if torch.cuda.device_count() < count:
                raise RuntimeError(f"{count} GPUs wanted, {torch.cuda.device_count()} found")
            torch.cuda.set_device(rank)
        # Here and not by accelerate, whose store would listen on every network interface.
        store = dist.FileStore(str(rendezvous), count)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
            store=store,
            rank=rank,
            world_size=count,
            timeout=timedelta(seconds=2 * stall_seconds),  # rank 0's watchdog comes first
        )
        accelerator = Accelerator(cpu=not on_gpus)
        # As an argument it would be refused: only classes of accelerate's own are taken there.
        alike = Alike(init_sync=False, forward_sync_buffers=False)
        accelerator.ddp_handler = alike  # pyright: ignore[reportAttributeAccessIssue]
        return cls(accelerator, store)

    def leave(self) -> None:
        """Part from the others, when nothing is left to be said."""
        if self.count > 1:
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model to train: several ranks' is one whose backward pass averages gradients."""
        return self._accelerator.prepare(model)

    def accumulating(self, model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """For a micro batch on a prepared model: only in a step's last one do the ranks exchange.

        Each has to have a backward pass then.
        """
        if last:
            return nullcontext()
        return self._accelerator.no_sync(model)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The body runs in rank 0, and then in the others: they find in place what it fetched.

        Once in a segment. They wait without an end, which no exchange would let them: rank 0's
        watchdog sees whether it gets on, and the others end with it.
        """
        if self._store is not None and not self.leads:
            self._store.wait([LEADER_DONE], timedelta(days=365))
        yield
        if self._store is not None and self.leads:
            self._store.set(LEADER_DONE, "")

    def agree(self, flag: bool) -> bool:
        """What rank 0 says, whatever the others would; it waits for no GPU, as it goes by CPUs."""
        if self.count == 1:
            return flag
        said = torch.tensor(flag, dtype=torch.int32)
        dist.broadcast(said, src=0)
        return bool(said.item())

    def sum(self, *values: float) -> list[float]:
        """Sums over all ranks, in float64; to the last bit the same in each of them."""
        if self.count == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return sums.tolist()

    def gather(self, row: Tensor) -> Tensor:
        """Every rank's row of equal size, on the CPU: shape (ranks, size)."""
        if self.count == 1:
            return row[None]
        rows = [torch.empty_like(row, device=self.device) for _ in range(self.count)]
        dist.all_gather(rows, row.to(self.device))
        return torch.stack(rows).cpu()
