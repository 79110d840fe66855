"""The ranks of data parallelism, and their communication."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
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

_groups: list[object] = []
"""The process group, which must not be freed before the process ends.

Its destructor waits for gloo's threads and holds the GIL. A thread that is about to release the
tensors of the last exchange needs the GIL, so both would wait forever.
"""


@dataclass
class EqualModels(DistributedDataParallelKwargs):
    """Options for models that are equal in all ranks. accelerate passes on what differs."""

    init_sync: bool = True
    forward_sync_buffers: bool = True


class Ranks:
    """One of `count` processes, on one or several machines.

    Rank 0 leads: it reports, decides and writes.

    torch's DistributedDataParallel averages the gradients in the backward pass of a step's last
    micro-batch. This class does all other communication.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        store: dist.Store | None = None,  # pyright: ignore[reportPrivateImportUsage]
    ) -> None:
        self._accelerator, self._store = accelerator, store
        self.rank, self.count = accelerator.process_index, accelerator.num_processes
        # accelerate gives CPUs an index, which safetensors rejects.
        on_cpu = accelerator.device.type == "cpu"
        self.device = torch.device("cpu") if on_cpu else accelerator.device

    @classmethod
    def alone(cls) -> Ranks:
        """Return the only rank of a segment, on the GPU if there is one."""
        return cls(Accelerator(cpu=not torch.cuda.is_available()))

    @classmethod
    def join(cls, rendezvous: Path, stall_seconds: float) -> Ranks:
        """Connect to the other ranks, each with its own GPU if any.

        Ranks on one machine use the loopback interface. The rank and the number of ranks come from
        the environment variables of torch's launcher.
        The rendezvous file must be new. Raise RuntimeError if there are too few GPUs.
        """
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        index, here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        if here == count:
            for library in ("GLOO", "NCCL"):
                os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
        on_gpus = torch.cuda.is_available()
        if on_gpus:
            if torch.cuda.device_count() < here:
                raise RuntimeError(
                    f"The segment needs {here} GPUs on this machine, but it has "
                    f"{torch.cuda.device_count()}."
                )
            torch.cuda.set_device(index)
        # accelerate's store would listen on every network interface.
        store = dist.FileStore(str(rendezvous), count)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
            store=store,
            rank=rank,
            world_size=count,
            timeout=timedelta(seconds=2 * stall_seconds),  # rank 0's watchdog acts first
        )
        _groups.append(dist.group.WORLD)
        accelerator = Accelerator(cpu=not on_gpus)
        # accelerate accepts only its own classes as arguments.
        equal = EqualModels(init_sync=False, forward_sync_buffers=False)
        accelerator.ddp_handler = equal  # pyright: ignore[reportAttributeAccessIssue]
        return cls(accelerator, store)

    def leave(self) -> None:
        if self.count > 1:
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model to train. Its backward pass averages gradients over the ranks."""
        return self._accelerator.prepare(model)

    def accumulating(self, model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Return the context of a backward pass. Only a step's last one exchanges gradients."""
        if last:
            return nullcontext()
        return self._accelerator.no_sync(model)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Run the block once per segment, in rank 0 first: others find the files it fetched."""
        if self._store is not None and not self.leads:
            self._store.wait([LEADER_DONE], timedelta(days=365))
        yield
        if self._store is not None and self.leads:
            self._store.set(LEADER_DONE, "")

    def agree(self, flag: bool) -> bool:
        """Return the flag of rank 0 in all ranks, without waiting for a GPU."""
        if self.count == 1:
            return flag
        shared = torch.tensor(flag, dtype=torch.int32)
        dist.broadcast(shared, src=0)
        return bool(shared.item())

    def sum(self, *values: float) -> list[float]:
        """Return sums over all ranks in float64, bitwise equal in all ranks."""
        if self.count == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return sums.tolist()

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of all ranks with those of rank 0."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor.data, src=0)

    def gather(self, row: Tensor) -> Tensor:
        """Return the rows of all ranks, of equal size, on the CPU: shape (ranks, size)."""
        if self.count == 1:
            return row[None]
        rows = [torch.empty_like(row, device=self.device) for _ in range(self.count)]
        dist.all_gather(rows, row.to(self.device))
        return torch.stack(rows).cpu()
