"""The ranks of data parallelism: which one this process is, and what they say to each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Ranks:
    """One of `count` processes of this machine; rank 0 leads: it reports, decides and writes.

    Gradients are summed once a step, over the adapter alone. torch's DistributedDataParallel would
    overlap that with the backward pass, which a few megabytes do not need, and demands of every
    rank as many micro batches as of the others, which the last step of an epoch does not have.
    """

    def __init__(self, rank: int, count: int, device: torch.device) -> None:
        self.rank, self.count, self.device = rank, count, device

    @classmethod
    def alone(cls) -> Ranks:
        """A segment without others, on the GPU if there is one."""
        return cls(
            0, 1, torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        )

    @classmethod
    def join(cls, rank: int, count: int, rendezvous: Path, stall_seconds: float) -> Ranks:
        """Meet the other ranks: NCCL between GPUs, gloo between CPUs, over the loopback interface.

        They find each other in a file, which must be new. Each takes a GPU of its own, or its
        share of the cores. Raises RuntimeError if the machine has fewer GPUs than ranks.
        """
        if count == 1:
            return cls.alone()
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
        backend, device = "gloo", torch.device("cpu")
        if torch.cuda.is_available():
            if torch.cuda.device_count() < count:
                raise RuntimeError(f"{count} GPUs wanted, {torch.cuda.device_count()} found")
            backend, device = "nccl", torch.device("cuda", rank)
            torch.cuda.set_device(device)
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
        dist.init_process_group(
            backend,
            store=dist.FileStore(str(rendezvous), count),  # pyright: ignore[reportPrivateImportUsage]
            rank=rank,
            world_size=count,
            timeout=timedelta(seconds=2 * stall_seconds),  # rank 0's watchdog comes first
        )
        return cls(rank, count, device)

    def leave(self) -> None:
        """Part from the others, when nothing is left to be said."""
        if self.count > 1:
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def share(self, items: Sequence[list[int]]) -> Sequence[list[int]]:
        """This rank's part of what is dealt out to all, one by one."""
        return items[self.rank :: self.count]

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The body runs in rank 0, and then in the others: they find in place what it fetched."""
        if not self.leads:
            self.agree(True)
        yield
        if self.leads:
            self.agree(True)

    def agree(self, flag: bool) -> bool:
        """What rank 0 says, whatever the others would."""
        if self.count == 1:
            return flag
        said = torch.tensor(flag, dtype=torch.int32, device=self.device)
        dist.broadcast(said, src=0)
        return bool(said.item())

    def sum(self, *values: float) -> list[float]:
        """Sums over all ranks, in float64."""
        if self.count == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return sums.tolist()

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all ranks; a rank without one counts as zero."""
        if self.count == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = flat.split([p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def gather(self, row: Tensor) -> Tensor:
        """Every rank's row of equal size, on the CPU: shape (ranks, size)."""
        if self.count == 1:
            return row[None]
        rows = [torch.empty_like(row, device=self.device) for _ in range(self.count)]
        dist.all_gather(rows, row.to(self.device))
        return torch.stack(rows).cpu()
