"""The values that the phases of a segment return."""

from __future__ import annotations

from dataclasses import dataclass

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from services.trainer.base_files import BaseFiles
from services.trainer.divergence import Divergence
from services.trainer.evaluation import Evaluations
from services.trainer.examples import Renderer
from services.trainer.execution import ExecutionMode
from services.trainer.peak_memory import PeakMemory
from services.trainer.sampling import Sampling
from services.trainer.training import Training


@dataclass(frozen=True)
class Loaded:
    """The base model in memory, with a new adapter."""

    tokenizer: PreTrainedTokenizerBase
    model: PeftModel
    mode: ExecutionMode  # before choosing compiled or eager layers
    eager_reason: str | None  # reason why layers cannot be compiled, if any
    base_parameters: int
    context_length: int  # tokens
    vocabulary_size: int
    base_files: BaseFiles | None  # still being hashed; rank 0 only
    peak_memory: PeakMemory


@dataclass(frozen=True)
class Prepared:
    """The rendered dataset and the optimizer, restored from the checkpoint if there is one."""

    renderer: Renderer
    training: Training
    mode: ExecutionMode
    divergence: Divergence
    evaluations: Evaluations
    sampling: Sampling

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps in the whole job."""
        return self.training.plan.total_steps


@dataclass(frozen=True)
class Trained:
    """The run after its last step."""

    step: int
    train_loss: float  # loss of the last step, in nats per label token
    best_step: int | None  # step of the checkpoint with the lowest held-out loss
    best_eval_loss: float | None
