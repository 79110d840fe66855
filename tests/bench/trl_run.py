"""Training with TRL's SFTTrainer on tokenized examples, to compare EcoLink's trainer with it.

`python -P tests/bench/trl_run.py CONFIG.json`, where CONFIG.json is a TrlConfig, prints a
TrlResult as JSON in its last line. The program imports nothing of EcoLink, so that any Python
that has TRL can run it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class TrlConfig:
    """Settings of a run. The defaults are TRL's own."""

    model: str  # directory
    data: str  # file: {"train": [{"input_ids": [..], "labels": [..]}, ..]}
    output: str  # directory
    learning_rates: list[float]  # one per optimizer step
    target_modules: list[str]
    lora_r: int
    lora_alpha: int
    dropout: float
    micro_batch_size: int
    gradient_accumulation: int
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 42
    dtype: str = "float32"  # of the base's weights
    bf16: bool = True  # autocast
    sampling: str = "random"  # or "group_by_length", or "sequential"
    gradient_checkpointing: bool = True
    max_length: int | None = 1024
    torch_compile: bool = False
    adapter: str | None = None  # directory of the adapter to start with; None: a new one


@dataclass(frozen=True)
class TrlResult:
    """Measurements of a run."""

    version: str  # of TRL
    first_step_seconds: float  # from the program's start to the end of the first optimizer step
    step_tokens: list[int]  # of each optimizer step, without padding
    step_seconds: list[float]
    peak_rss_bytes: int
    peak_gpu_bytes: int  # 0 without a GPU
    threads: int  # of torch
    torch: str  # its version
    adapter_dtype: str
    losses: list[float]  # of each optimizer step


@dataclass
class Stopwatch:
    """Times (monotonic) and counts of tokens, at the start and after each optimizer step."""

    times: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


def run(config: TrlConfig) -> TrlResult:
    """Train and measure."""
    started, before_main = time.monotonic(), seconds_since_start()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import trl  # pyright: ignore[reportMissingImports]

    stopwatch = Stopwatch()
    trainer = _trainer(config, stopwatch)
    trainer.train()
    if config.adapter is not None:
        trainer.model.save_pretrained(config.output, save_embedding_layers=False)
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    return TrlResult(
        version=trl.__version__,
        first_step_seconds=before_main + stopwatch.times[1] - started,
        step_tokens=[after - before for before, after in pairwise(stopwatch.tokens)],
        step_seconds=[after - before for before, after in pairwise(stopwatch.times)],
        peak_rss_bytes=peak_rss_bytes(),
        peak_gpu_bytes=peak_gpu_bytes(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        adapter_dtype=" and ".join(sorted({str(p.dtype).removeprefix("torch.") for p in trained})),
        losses=[each["loss"] for each in trainer.state.log_history if "loss" in each],
    )


def _trainer(config: TrlConfig, stopwatch: Stopwatch) -> Any:
    """Return an SFTTrainer with the given learning rates and a stopwatch."""
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from peft import LoraConfig, PeftModel
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import SFTTrainer  # pyright: ignore[reportMissingImports]

    class Timed(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            stopwatch.times.append(time.monotonic())
            stopwatch.tokens.append(0)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            stopwatch.times.append(time.monotonic())
            stopwatch.tokens.append(int(trainer._total_train_tokens))  # TRL's num_tokens

    class Scheduled(SFTTrainer):
        def create_scheduler(
            self, num_training_steps: int, optimizer: Optimizer | None = None
        ) -> LambdaLR:
            rates, peak = config.learning_rates, max(config.learning_rates)
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer, lambda step: rates[min(step, len(rates) - 1)] / peak
            )
            return self.lr_scheduler

    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
    )
    model: Any = config.model
    if config.adapter is not None:
        base = AutoModelForCausalLM.from_pretrained(config.model, dtype=config.dtype)
        model = PeftModel.from_pretrained(base, config.adapter, is_trainable=True)
    trainer = Scheduled(
        model=model,
        args=_arguments(config),
        train_dataset=Dataset.from_list(json.loads(Path(config.data).read_text())["train"]),
        peft_config=lora if config.adapter is None else None,
        callbacks=[Timed()],
    )
    return trainer


def _arguments(config: TrlConfig) -> Any:
    import torch
    from trl import SFTConfig  # pyright: ignore[reportMissingImports]

    return SFTConfig(
        output_dir=config.output,
        max_steps=len(config.learning_rates),
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=max(config.learning_rates),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        bf16=config.bf16,
        gradient_checkpointing=config.gradient_checkpointing,
        max_length=config.max_length,
        torch_compile=config.torch_compile,
        train_sampling_strategy=config.sampling,
        model_init_kwargs={"dtype": config.dtype} if config.adapter is None else None,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
    )


def peak_rss_bytes() -> int:
    """Return the peak resident memory. `ru_maxrss` includes the process it was forked from."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def peak_gpu_bytes() -> int:
    """Return the peak memory that torch reserved, plus other memory in use; 0 without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    beside = total - free - torch.cuda.memory_reserved()
    return torch.cuda.max_memory_reserved() + max(0, beside)


def seconds_since_start() -> float:
    """Return the seconds since the kernel started this process."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    config = TrlConfig(**json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(asdict(run(config))), flush=True)
