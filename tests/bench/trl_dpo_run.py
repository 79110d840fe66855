"""Training with TRL's DPOTrainer on tokenized pairs, to compare EcoLink's losses with its.

`python -P tests/bench/trl_dpo_run.py CONFIG.json`, where CONFIG.json is a TrlDpoConfig, prints a
TrlDpoResult as JSON in its last line. The program imports nothing of EcoLink, so that any Python
that has TRL can run it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class TrlDpoConfig:
    """Settings of a run in float32, with an adapter that both trainers start from."""

    model: str  # directory of the base model
    adapter: str  # directory of the adapter at the start
    data: str  # file: [{"prompt_ids": [..], "chosen_ids": [..], "rejected_ids": [..]}, ..]
    output: str  # directory, which gets the adapter at the end
    learning_rates: list[float]  # one per optimizer step
    beta: float
    micro_batch_size: int
    gradient_accumulation: int
    weight_decay: float
    max_grad_norm: float
    seed: int = 42


@dataclass
class TrlDpoResult:
    """Means over the pairs of each optimizer step."""

    version: str  # of TRL
    losses: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)


def run(config: TrlDpoConfig) -> TrlDpoResult:
    """Train, and record the loss and the reward margin of each step."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import trl  # pyright: ignore[reportMissingImports]
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from peft import PeftModel
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import AutoModelForCausalLM, AutoTokenizer

    losses: list[float] = []
    margins: list[float] = []

    class Scheduled(trl.DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset  # it is tokenized

        def create_scheduler(
            self, num_training_steps: int, optimizer: Optimizer | None = None
        ) -> LambdaLR:
            rates, peak = config.learning_rates, max(config.learning_rates)
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer, lambda step: rates[min(step, len(rates) - 1)] / peak
            )
            return self.lr_scheduler

        def compute_loss(self, *arguments: Any, **named: Any) -> Any:
            found = super().compute_loss(*arguments, **named)
            losses.append(float(found[0] if isinstance(found, tuple) else found))
            margins.append(float(self._metrics["train"]["rewards/margins"][-1]))
            return found

    base = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, config.adapter, is_trainable=True)
    trainer = Scheduled(
        model=model,
        args=_arguments(config),
        train_dataset=Dataset.from_list(json.loads(Path(config.data).read_text())),
        processing_class=AutoTokenizer.from_pretrained(config.model),
    )
    trainer.train()
    model.save_pretrained(config.output, selected_adapters=["default"])
    return TrlDpoResult(trl.__version__, _by_step(losses, config), _by_step(margins, config))


def _by_step(values: list[float], config: TrlDpoConfig) -> list[float]:
    size = config.gradient_accumulation
    return [sum(values[n : n + size]) / size for n in range(0, len(values), size)]


def _arguments(config: TrlDpoConfig) -> Any:
    import torch
    from trl import DPOConfig  # pyright: ignore[reportMissingImports]

    own: Mapping[str, Any] = {
        "beta": config.beta,
        "disable_dropout": True,
        "max_length": None,
        "precompute_ref_log_probs": False,
        "train_sampling_strategy": "sequential",
    }
    return DPOConfig(
        output_dir=config.output,
        max_steps=len(config.learning_rates),
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=max(config.learning_rates),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        **own,
    )


if __name__ == "__main__":
    config = TrlDpoConfig(**json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(asdict(run(config))), flush=True)
