"""The jobs of the benchmark of estimates: their datasets and hyperparameters."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from domain.training.hyperparameters import ALL_LINEAR, DPO
from tests.bench.corpus import demo_chats

SMALL_MODULES, LARGE_MODULES = ["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj"]


@dataclass(frozen=True)
class Variant:
    """The size of a job: dataset and hyperparameters."""

    rows: int
    chats_per_row: int  # joined, so that jobs have examples of different length
    hyperparameters: Mapping[str, Any]
    name: str = "varied size"
    calls_tools: bool = False
    continues: str | None = None  # name of the variant whose model the job continues

    def write(self, path: Path) -> int:
        """Write the dataset as JSON Lines. Return the number of rows."""
        chats = demo_chats(self.rows * self.chats_per_row)
        rows: list[dict[str, Any]] = [
            {
                "messages": [
                    message
                    for chat in chats[start : start + self.chats_per_row]
                    for message in chat["messages"]
                ]
            }
            for start in range(0, len(chats), self.chats_per_row)
        ]
        if self.calls_tools:
            rows = [_with_tools(row, number) for number, row in enumerate(rows)]
        if self.hyperparameters.get("method") == DPO:
            rows = _pairs(rows)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return len(rows)


def _with_tools(row: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a chat that calls a tool before its last answer."""
    *before, answer = row["messages"]
    order = f"A-{number:04d}"
    call = {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": "find_order", "arguments": json.dumps({"number": order})},
    }
    found = {"role": "tool", "tool_call_id": call["id"], "content": f"{order}: sent"}
    parameters = {
        "type": "object",
        "properties": {"number": {"type": "string"}},
        "required": ["number"],
    }
    function = {"name": "find_order", "description": "Find an order.", "parameters": parameters}
    return {
        "messages": [*before, {"role": "assistant", "tool_calls": [call]}, found, answer],
        "tools": [{"type": "function", "function": function}],
    }


def _pairs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return preference pairs, in which the rejected answer is that of another chat."""
    return [
        {
            "input": {"messages": row["messages"][:-1]},
            "preferred_output": row["messages"][-1:],
            "non_preferred_output": other["messages"][-1:],
        }
        for row, other in pairwise([*rows, rows[0]])
        if row["messages"][-1] != other["messages"][-1]
    ]


ALL = {"target_modules": [ALL_LINEAR]}
RSLORA = {"use_rslora": True, "lora_r": 64, "learning_rate": 2e-4}
DORA = {"use_dora": True}
PREFERENCES = {"method": DPO, "learning_rate": 2e-5}
STALE = {"eval_steps": 4, "early_stopping_patience": 2}
BEST = {"load_best_model_at_end": True, "eval_steps": 5, "n_checkpoints": 3}
KINDS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("attention", 110, {}),
    ("all linear layers", 80, ALL),
    ("rsLoRA", 110, RSLORA),
    ("DoRA", 90, DORA),
    ("DPO", 60, PREFERENCES),
    ("early stop", 110, STALE | {"epochs": 4}),
    ("warm start from rsLoRA", 110, RSLORA),
    ("best state", 110, BEST),
    ("all linear layers, DoRA", 60, ALL | DORA),
    ("DPO, all linear layers", 40, ALL | PREFERENCES),
    ("attention, four modules", 100, {"target_modules": LARGE_MODULES}),
    ("all linear layers, rsLoRA", 80, ALL | RSLORA),
    ("tool calls", 50, {}),
    ("DPO, rsLoRA", 60, PREFERENCES | RSLORA | {"learning_rate": 2e-5}),
    ("DPO, DoRA", 45, PREFERENCES | DORA),
    ("early stop, all linear layers, best state", 80, ALL | STALE | BEST | {"epochs": 4}),
    ("warm start from four modules, best state", 100, BEST | {"target_modules": LARGE_MODULES}),
    ("DPO from four modules", 55, PREFERENCES | {"target_modules": LARGE_MODULES}),
    ("DoRA, best state", 80, DORA | BEST),
    ("DPO, early stop", 60, PREFERENCES | STALE | {"epochs": 4}),
)
"""Kinds of jobs, with the rows of the dataset and the hyperparameters of each.

The parents of warm starts are in the same half.
"""

PARENTS = {
    "warm start from rsLoRA": "rsLoRA",
    "warm start from four modules, best state": "attention, four modules",
    "DPO from four modules": "attention, four modules",
}


def kinds() -> list[Variant]:
    """Return one job of each kind."""
    return [
        Variant(
            rows=rows,
            chats_per_row=2,
            hyperparameters={
                "epochs": 2,
                "learning_rate": 1e-3,
                "gradient_accumulation": 2,
                "save_steps": 20,
                **fields,
            },
            name=name,
            calls_tools=name == "tool calls",
            continues=PARENTS.get(name),
        )
        for name, rows, fields in KINDS
    ]


def variants(count: int, seed: int) -> list[Variant]:
    """Jobs of varied size, in the same order for each seed. Training is most of each."""
    lot = random.Random(seed)
    return [_variant(lot, number) for number in range(count)]


def _variant(lot: random.Random, number: int) -> Variant:
    chats, epochs, chats_per_row = lot.randint(140, 420), lot.choice([1, 2, 3]), lot.randint(1, 3)
    return Variant(
        rows=chats // (epochs * chats_per_row),
        chats_per_row=chats_per_row,
        hyperparameters={
            "epochs": epochs,
            "learning_rate": 1e-3,
            "lora_r": lot.choice([8, 16, 32]),
            "micro_batch_size": lot.choice([4, 8]),
            "gradient_accumulation": lot.choice([1, 2, 4]),
            "target_modules": lot.choice([SMALL_MODULES, LARGE_MODULES]),
            "max_sequence_length": lot.choice([None, None, 64]),
            "save_steps": 1000,
            "seed": number,
        },
    )
