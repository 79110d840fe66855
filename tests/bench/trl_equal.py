"""`make bench-trl-equal`: train with DPO, and compare every loss and the adapter with TRL's."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deploy.local.errors import StackError
from domain.training.hyperparameters import DPO, Hyperparameters
from services.model_libraries import lean_imports
from services.trainer.clock import SegmentClock
from services.trainer.lease import Lease
from tests.bench import trl_dpo_run
from tests.bench.learning import ModelOption, PythonOption, last_line, smollm2
from tests.bench.trainer import require_trl
from tests.bench.trl_dpo_run import TrlDpoConfig, TrlDpoResult

if TYPE_CHECKING:
    from services.trainer.pairs import Pair
    from services.trainer.training import Step

AIM = 1e-4
"""Largest difference between two losses, in nats per pair."""

FOREVER = 1e9
MICRO_BATCH, ACCUMULATION = 2, 2
TOPICS = ("the order", "a refund", "the invoice", "an address", "the delivery", "a discount")
MOODS = ("today", "this week", "after the holidays", "before noon", "in another country")


def bench(
    python: PythonOption = Path(sys.executable),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 50,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-4,
    model: ModelOption = None,
) -> None:
    """Train on the same pairs in the same order with both trainers, in float32."""
    console = Console(highlight=False)
    chosen = Hyperparameters(
        method=DPO,
        beta=0.1,
        epochs=1,
        learning_rate=rate,
        dropout=0.0,
        micro_batch_size=MICRO_BATCH,
        gradient_accumulation=ACCUMULATION,
    )
    try:
        require_trl(python)
        with tempfile.TemporaryDirectory(prefix="ecolink-bench-") as folder:
            directory = Path(folder)
            base = model or smollm2(directory)
            ours, config, trained = _train(base, directory, chosen, steps)
            (directory / "config.json").write_text(json.dumps(vars(config)))
            command = [str(python), "-P", trl_dpo_run.__file__]
            theirs = TrlDpoResult(**json.loads(last_line(command, json.dumps(vars(config)))))
            weights = _largest_difference(trained, Path(config.output))
    except StackError as error:
        console.print(f"[red]{error}[/]")
        raise typer.Exit(1) from error
    losses = [abs(a.loss - b) for a, b in zip(ours, theirs.losses, strict=True)]
    margins = [
        abs(a.rewards.margin - b) for a, b in zip(ours, theirs.margins, strict=True) if a.rewards
    ]
    console.print(
        f"DPO, {len(losses)} steps of {MICRO_BATCH * ACCUMULATION} pairs, TRL {theirs.version}: "
        f"loss {ours[0].loss:.6f} to {ours[-1].loss:.6f} (TRL {theirs.losses[-1]:.6f})"
    )
    console.print(
        f"largest difference of a loss {max(losses):.2e} (aim {AIM:g}), of a reward margin "
        f"{max(margins):.2e}, of an adapter weight {weights:.2e}"
    )
    if max(losses) > AIM:
        raise typer.Exit(1)


def _pairs(count: int) -> list[dict[str, object]]:
    """Return preference pairs in OpenAI's format. No two are equal."""
    return [
        {
            "input": {
                "messages": [
                    {
                        "role": "user",
                        "content": f"Case {n}: what about {TOPICS[n % 6]} {MOODS[n % 5]}?",
                    }
                ]
            },
            "preferred_output": [
                {
                    "role": "assistant",
                    "content": f"Thank you for asking about {TOPICS[n % 6]}. "
                    + f"We will take care of it {MOODS[n % 5]}. " * (1 + n % 3),
                }
            ],
            "non_preferred_output": [
                {"role": "assistant", "content": "No idea. " * (1 + n % 4) + f"Ask again, {n}."}
            ],
        }
        for n in range(count)
    ]


def _train(
    base: Path, directory: Path, chosen: Hyperparameters, steps: int
) -> tuple[list[Step], TrlDpoConfig, Path]:
    """Train with EcoLink. Return the steps, TRL's settings and the adapter at the end.

    TRL starts with the same adapter, and reads the pairs in the order of EcoLink's plan.
    """
    lean_imports()
    import torch

    from services.trainer.examples import Renderer
    from services.trainer.model import attach_adapter, load_base, load_tokenizer
    from services.trainer.objectives import PreferenceLoss
    from services.trainer.packing import pack_if_able
    from services.trainer.pairs import Pair, length_of
    from services.trainer.plan import Plan
    from services.trainer.processes.ranks import Ranks
    from services.trainer.reference import Referee
    from services.trainer.training import Training

    renderer = Renderer(load_tokenizer(base), 2048)
    per_step = chosen.micro_batch_size * chosen.gradient_accumulation
    rendered = renderer.render_all(_pairs(steps * per_step), lambda: None)
    pairs = [each for row in rendered.conversations for each in row if isinstance(each, Pair)]
    plan = Plan(
        lengths=tuple(map(length_of, pairs)),
        epochs=1,
        micro_batch_size=chosen.micro_batch_size,
        gradient_accumulation=chosen.gradient_accumulation,
        seed=chosen.seed,
        sequences=2,
    )
    ranks, lease = Ranks.alone(), Lease(SegmentClock(), FOREVER, FOREVER)
    loaded = load_base(base, torch.float32, ranks.device)
    pack_if_able(loaded)
    torch.manual_seed(chosen.seed)
    model = attach_adapter(loaded, chosen, base.name)
    model.save_pretrained(str(directory / "start"), save_embedding_layers=False)
    training = Training(model, plan, pairs, chosen, ranks, lease)
    assert isinstance(training.objective, PreferenceLoss)
    referee = Referee(model, False, plan, ranks, lease, lambda _: None)
    training.objective.reference = referee.reference(pairs, [])
    taken = [step for number in range(steps) if (step := training.step(number)) is not None]
    model.save_pretrained(str(directory / "end"), save_embedding_layers=False)
    order = [i for number in range(steps) for batch in plan.micro_batches(number) for i in batch]
    data = directory / "pairs.json"
    data.write_text(json.dumps([_tokens(pairs[index]) for index in order]))
    config = TrlDpoConfig(
        model=str(base),
        adapter=str(directory / "start"),
        data=str(data),
        output=str(directory / "trl"),
        learning_rates=[plan.learning_rate(number, chosen) for number in range(steps)],
        beta=chosen.beta or 0.0,
        micro_batch_size=chosen.micro_batch_size,
        gradient_accumulation=chosen.gradient_accumulation,
        weight_decay=chosen.weight_decay,
        max_grad_norm=chosen.max_grad_norm,
        seed=chosen.seed,
    )
    return taken, config, directory / "end"


def _tokens(pair: Pair) -> dict[str, list[int]]:
    """Return the prompt and the answers, without the tokens after the last label."""
    from infrastructure.chat.chat_labels import IGNORED

    def answer(sequence: list[int], labels: list[int], start: int) -> list[int]:
        end = max(n for n, label in enumerate(labels) if label != IGNORED) + 1
        return sequence[start:end]

    first = next(n for n, label in enumerate(pair.chosen.labels) if label != IGNORED)
    ids, labels = list(pair.chosen.input_ids), list(pair.chosen.labels)
    other, other_labels = list(pair.rejected.input_ids), list(pair.rejected.labels)
    return {
        "prompt_ids": ids[:first],
        "chosen_ids": answer(ids, labels, first),
        "rejected_ids": answer(other, other_labels, first),
    }


def _largest_difference(one: Path, other: Path) -> float:
    """Return the largest difference between two weights of two adapters."""
    from safetensors.torch import load_file

    name = "adapter_model.safetensors"
    ours, theirs = load_file(one / name), load_file(other / name)
    return max(float((ours[key] - theirs[key]).abs().max()) for key in ours)


if __name__ == "__main__":
    typer.run(bench)
