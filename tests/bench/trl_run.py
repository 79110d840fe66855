"""Train with TRL's SFTTrainer on tokenised examples, to compare our trainer with it.

`python -P tests/bench/trl_run.py CONFIG.json`, where CONFIG.json is a TrlConfig, prints a
TrlResult as JSON in its last line. The program imports nothing of EcoLink, so that any Python
that has TRL can run it. The environment sets threads, allocator and the like.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
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


@dataclass(frozen=True)
class TrlResult:
    """Measurements of a run."""

    version: str
    tokens: int  # without padding
    first_step_seconds: float  # from the program's start to the end of the first optimizer step
    train_seconds: float  # with the first step
    step_seconds: list[float]
    losses: list[float]  # every ten steps
    peak_rss_bytes: int
    peak_gpu_bytes: int  # 0 without a GPU
    step_tokens: list[int]  # of each optimizer step, without padding
    threads: int  # of torch
    torch: str  # its version
    adapter_dtype: str


@dataclass
class Stopwatch:
    """Start of training, and end and tokens of each optimizer step."""

    began: float = 0.0
    ended: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @property
    def step_seconds(self) -> list[float]:
        """Seconds of each step."""
        return [end - start for start, end in zip([self.began, *self.ended], self.ended)]  # noqa: B905

    @property
    def step_tokens(self) -> list[int]:
        """Tokens of each step."""
        return [after - before for before, after in zip([0, *self.tokens], self.tokens)]  # noqa: B905


def run(config: TrlConfig) -> TrlResult:
    """Train and measure."""
    started, before_main = time.monotonic(), seconds_since_start()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import trl  # pyright: ignore[reportMissingImports]

    stopwatch = Stopwatch()
    trainer = _trainer(config, stopwatch)
    trainer.train()
    history: list[dict[str, Any]] = trainer.state.log_history
    return TrlResult(
        version=trl.__version__,
        tokens=stopwatch.tokens[-1],
        first_step_seconds=before_main + stopwatch.ended[0] - started,
        train_seconds=time.monotonic() - stopwatch.began,
        step_seconds=stopwatch.step_seconds,
        losses=[row["loss"] for row in history if "loss" in row],
        peak_rss_bytes=peak_rss_bytes(),
        peak_gpu_bytes=peak_gpu_bytes(),
        step_tokens=stopwatch.step_tokens,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        adapter_dtype=_adapter_dtype(trainer.model),
    )


def _adapter_dtype(model: Any) -> str:
    dtypes = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad}
    return " and ".join(sorted(dtypes))


def _trainer(config: TrlConfig, stopwatch: Stopwatch) -> Any:
    """An SFTTrainer with the given learning rates and a stopwatch."""
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import TrainerCallback
    from trl import SFTTrainer  # pyright: ignore[reportMissingImports]

    class Timed(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            stopwatch.began = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            stopwatch.ended.append(time.monotonic())
            # TRL's num_tokens.
            stopwatch.tokens.append(int(trainer._total_train_tokens))

    class Scheduled(SFTTrainer):
        def create_scheduler(
            self, num_training_steps: int, optimizer: Optimizer | None = None
        ) -> LambdaLR:
            rates, peak = config.learning_rates, max(config.learning_rates)
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer, lambda step: rates[min(step, len(rates) - 1)] / peak
            )
            return self.lr_scheduler

    data = json.loads(Path(config.data).read_text())
    trainer = Scheduled(
        model=config.model,
        args=_arguments(config),
        train_dataset=Dataset.from_list(data["train"]),
        peft_config=_lora(config),
        callbacks=[Timed()],
    )
    return trainer


def _lora(config: TrlConfig) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
    )


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
        model_init_kwargs={"dtype": config.dtype},
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def peak_rss_bytes() -> int:
    """Peak resident memory of the process. `ru_maxrss` includes the process it was forked from."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def peak_gpu_bytes() -> int:
    """Peak memory that torch reserved, plus other memory in use; 0 without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    beside = total - free - torch.cuda.memory_reserved()
    return torch.cuda.max_memory_reserved() + max(0, beside)


def seconds_since_start() -> float:
    """Seconds since the kernel started this process."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


def main(config_path: Path) -> None:
    """Run the configuration in a file."""
    result = run(TrlConfig(**json.loads(config_path.read_text())))
    print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
