"""The names of metrics in trackers, by the columns of measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STEP_METRICS = {
    "train_loss": "train/loss",
    "smoothed_loss": "train/smoothed_loss",
    "learning_rate": "train/learning_rate",
    "tokens": "train/tokens",
    "tokens_per_second": "train/tokens_per_second",
    "elapsed_seconds": "train/elapsed_seconds",
    "peak_memory_bytes": "gpu/peak_memory_bytes",
    "gpu_utilization": "gpu/utilization",
    "gpu_memory_bytes": "gpu/memory_bytes",
    "accuracy": "train/rewards/accuracy",  # only with DPO
    "chosen_reward": "train/rewards/chosen",
    "rejected_reward": "train/rewards/rejected",
}
EVALUATION_METRICS = {
    "eval_loss": "eval/loss",
    "accuracy": "eval/accuracy",
    "chosen_reward": "eval/rewards/chosen",
    "rejected_reward": "eval/rewards/rejected",
}


def named(row: Mapping[str, Any], metrics: Mapping[str, str]) -> dict[str, float]:
    """Return the known values of a row under the names of their metrics."""
    return {name: row[column] for column, name in metrics.items() if row.get(column) is not None}
