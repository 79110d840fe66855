"""The log-probabilities of all answers under the policy from which DPO starts.

They are computed once, in a phase of their own. Each checkpoint has a copy, so that a resumed
segment uses the same values. The policy is the base model with the adapter off or, if the job
continues an adapter, with that adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from domain.estimating.batching import fill
from services.trainer.batches import collate, log_probabilities
from services.trainer.lease import Lease
from services.trainer.oom import reporting_out_of_memory
from services.trainer.pairs import Pair, all_sequences, length_of
from services.trainer.plan import Plan
from services.trainer.processes.ranks import Ranks
from services.trainer.tensor_file import TensorFile

FILE = "reference.safetensors"

LogProbabilities = Tensor
"""Shape (pairs, 2), in nats, as float32 on the CPU: of the preferred and the rejected answers."""

TRAIN, HELD_OUT = "train", "held_out"


@dataclass(frozen=True)
class Reference:
    """The log-probabilities of the training pairs and of the held-out pairs, by index."""

    train: LogProbabilities
    held_out: LogProbabilities

    @classmethod
    def read(cls, directory: Path, plan: Plan, held_out: int) -> Reference:
        """Read a checkpoint's reference. Raise OSError, SafetensorError, KeyError or ValueError."""
        tensors = TensorFile.read(directory / FILE).tensors
        found = cls(tensors[TRAIN], tensors[HELD_OUT])
        if found.train.shape != (len(plan.lengths), 2) or found.held_out.shape != (held_out, 2):
            raise ValueError(f"{FILE} is not of these preference pairs")
        return found

    def write(self, directory: Path) -> None:
        """Write the file of a checkpoint. Raise OSError if that fails."""
        TensorFile.of({TRAIN: self.train, HELD_OUT: self.held_out}, {}).write(directory / FILE)


@dataclass(frozen=True)
class Referee:
    """The policy from which a job starts, and how it scores pairs."""

    model: PeftModel
    continues: bool  # True: the job continues an adapter, which is then part of the policy
    plan: Plan
    ranks: Ranks
    lease: Lease
    note: Callable[[str], None]  # writes to the log

    def reference(self, train: Sequence[Pair], held_out: Sequence[Pair]) -> Reference:
        """Score all pairs without dropout and gradients. The ranks divide the batches.

        The model is left in evaluation mode. Raise SegmentStopped in rank 0 if the segment has to
        end. The next segment then starts over, because there is no checkpoint yet.
        """
        self.model.eval()
        policy = nullcontext() if self.continues else self.model.disable_adapter()
        with torch.no_grad(), policy:
            return Reference(self._scored(train, "training"), self._scored(held_out, "held-out"))

    def _scored(self, pairs: Sequence[Pair], name: str) -> LogProbabilities:
        batches = fill([length_of(pair) for pair in pairs], self.plan.budget)
        mine = batches[self.ranks.rank :: self.ranks.count]
        found = torch.zeros(len(pairs), 2)
        turns = -(-len(batches) // self.ranks.count)
        for turn in range(turns):
            if self.ranks.agree(self.lease.must_end()):
                self.lease.check()
            if turn < len(mine):
                found[mine[turn]] = self._batch([pairs[index] for index in mine[turn]])
            if (done := 10 * (turn + 1) // turns) > 10 * turn // turns and turns >= 10:
                self.note(f"reference of the {name} pairs: {10 * done}% done")
        # Each pair was scored by one rank, and is zero in the others.
        return self.ranks.gather(found.flatten()).sum(dim=0).view(-1, 2)

    def _batch(self, pairs: list[Pair]) -> LogProbabilities:
        with reporting_out_of_memory(pairs, self.plan, self.ranks.device):
            batch = collate(all_sequences(pairs), self.ranks.device)
            return log_probabilities(self.model, batch).view(-1, 2).cpu()
