"""The ranks of data parallelism, and their communication."""

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
class EqualModels(DistributedDataParallelKwargs):
    """Options for models that are equal in all ranks, so that none has to be sent.

    The fields are arguments of torch's DistributedDataParallel. accelerate passes those that differ
    from the defaults of this class.
    """

    init_sync: bool = True
    forward_sync_buffers: bool = True


class Ranks:
    """One of `count` processes of this machine; rank 0 leads: it reports, decides and writes.

    torch's DistributedDataParallel averages the gradients in the backward pass of a step's last
    micro-batch. All other communication is in this class.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        store: dist.Store | None = None,  # pyright: ignore[reportPrivateImportUsage]
    ) -> None:
        """Several ranks find each other in the store."""
        self._accelerator, self._store = accelerator, store
        self.rank, self.count = accelerator.process_index, accelerator.num_processes
        # accelerate numbers CPUs too, which safetensors does not accept.
        on_cpu = accelerator.device.type == "cpu"
        self.device = torch.device("cpu") if on_cpu else accelerator.device

    @classmethod
    def alone(cls) -> Ranks:
        """The only rank of a segment, on the GPU if there is one."""
        return cls(Accelerator(cpu=not torch.cuda.is_available()))

    @classmethod
    def join(cls, rendezvous: Path, stall_seconds: float) -> Ranks:
        """Connect to the other ranks over the loopback interface.

        Tensors on GPUs use NCCL, tensors on CPUs gloo. The rank and the number of ranks are in the
        environment, as torch's launcher sets them. The ranks find each other in a file, which must
        be new. Each has its own GPU. Raises RuntimeError if there are too few.
        """
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
        on_gpus = torch.cuda.is_available()
        if on_gpus:
            if torch.cuda.device_count() < count:
                raise RuntimeError(
                    f"The segment needs {count} GPUs; the machine has {torch.cuda.device_count()}."
                )
            torch.cuda.set_device(rank)
        # accelerate's store would listen on every network interface.
        store = dist.FileStore(str(rendezvous), count)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
            store=store,
            rank=rank,
            world_size=count,
            timeout=timedelta(seconds=2 * stall_seconds),  # rank 0's watchdog comes first
        )
        accelerator = Accelerator(cpu=not on_gpus)
        # accelerate accepts only its own classes as arguments.
        equal = EqualModels(init_sync=False, forward_sync_buffers=False)
        accelerator.ddp_handler = equal  # pyright: ignore[reportAttributeAccessIssue]
        return cls(accelerator, store)

    def leave(self) -> None:
        """Disconnect from the other ranks."""
        if self.count > 1:
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """True in rank 0."""
        return self.rank == 0

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model to train; with several ranks its backward pass averages the gradients."""
        return self._accelerator.prepare(model)

    def accumulating(self, model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Context of a micro-batch: the ranks exchange gradients only in a step's last one.

        Every rank needs a backward pass in it.
        """
        if last:
            return nullcontext()
        return self._accelerator.no_sync(model)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Run the body in rank 0 and then in the others, which find the files that it fetched.

        Once in a segment. The others wait without a limit. Rank 0's watchdog detects a stall, and
        they end with rank 0.
        """
        if self._store is not None and not self.leads:
            self._store.wait([LEADER_DONE], timedelta(days=365))
        yield
        if self._store is not None and self.leads:
            self._store.set(LEADER_DONE, "")

    def agree(self, flag: bool) -> bool:
        """Rank 0's flag, in all ranks; on the CPUs, so that it waits for no GPU."""
        if self.count == 1:
            return flag
        said = torch.tensor(flag, dtype=torch.int32)
        dist.broadcast(said, src=0)
        return bool(said.item())

    def sum(self, *values: float) -> list[float]:
        """Sums over all ranks, in float64, with equal bits in all ranks."""
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
