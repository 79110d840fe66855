"""Model cards with Hugging Face Hub metadata, rendered from the provenance of a model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import yaml

from domain.core.money import dollars
from domain.jobs.documents import PROVENANCE
from domain.training.hyperparameters import DPO
from infrastructure.chat.chat_template import CHAT_TEMPLATE
from infrastructure.training.reports import SAMPLE
from services.scheduler.provenance import EvaluationFacts, Provenance, VersionFacts

RESUME_FILES = (
    "optimizer.safetensors",
    "random.safetensors",
    "position.json",
    "reference.safetensors",
    "unsent.json",
    SAMPLE,
)
"""Files that the trainer needs to resume from a checkpoint. The model works without them."""

TEMPLATE = """\
---
{metadata}---

# {model}

A LoRA adapter for {base}, trained by EcoLink. It is plain PEFT:

```python
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}", dtype=torch.float32)
model = PeftModel.from_pretrained(base, "path/of/this/directory")
```

Load it in float32. In bfloat16, PEFT rounds the base's output before it adds the adapter's, which
loses much of a small adapter. The loss below was measured with a single rounding.

{method} {chat_template}
{resume_files}
## Result

{result}

## Training

{training}

## Hyperparameters

{hyperparameters}

## Provenance

{origin}

`{provenance}` has the same facts as JSON, with every checkpoint and the hash of every file.
`ecolink models verify` compares it with the event log.
"""


def model_card(provenance: Provenance) -> str:
    """Return the card as Markdown with YAML metadata, which only the provenance determines."""
    base = provenance.base.repository or provenance.base.name
    return TEMPLATE.format(
        metadata=yaml.safe_dump(_metadata(base), sort_keys=False),
        model=provenance.model,
        base=base,
        method=_method(provenance),
        chat_template=_chat_template(provenance),
        resume_files=_resume_files(provenance),
        result=_table(_result(provenance)),
        training=_table(_training(provenance)),
        hyperparameters=_table(
            (name, _code(json.dumps(value)))
            for name, value in sorted(provenance.hyperparameters.items())
        ),
        origin=_table(_origin(provenance)),
        provenance=PROVENANCE,
    )


def _metadata(base: str) -> dict[str, Any]:
    """Return the Hub metadata, without the dataset, which is private."""
    return {
        "base_model": base,
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "ecolink", "base_model:adapter:" + base],
    }


def _method(provenance: Provenance) -> str:
    if provenance.hyperparameters.get("method") != DPO:
        return "The loss covers the assistant's messages only."
    start = "the continued adapter" if provenance.start else "the base model"
    return (
        "It was trained on preference pairs with direct preference optimization (DPO), and with "
        f"{start} as the reference. The loss covers the assistant's messages of the answers only."
    )


def _chat_template(provenance: Provenance) -> str:
    if any(file.path == CHAT_TEMPLATE for file in provenance.files):
        return (
            "The base has no chat template. Conversations were rendered with the ChatML-like "
            f"template in `{CHAT_TEMPLATE}`; render prompts with it too."
        )
    return "Conversations were rendered with the base's own chat template."


def _resume_files(provenance: Provenance) -> str:
    """Return a paragraph on the files to leave out when publishing, or '' without them."""
    there = {file.path for file in provenance.files}
    own = [_code(path) for path in RESUME_FILES if path in there]
    if not own:
        return ""
    private = f" `{SAMPLE}` holds a prompt of the dataset." if SAMPLE in there else ""
    return (
        f"\nThis is a checkpoint. The trainer resumes from {', '.join(own)}.{private} "
        "Leave these files out when you publish the adapter; it verifies without them.\n"
    )


Row = tuple[str, str]


def _result(provenance: Provenance) -> list[Row]:
    scored = provenance.evaluation
    if scored is None:
        return [("Held-out loss", "not evaluated: the job was stopped early")]
    held_out = (
        "Held-out examples",
        f"{scored.examples:,} ({scored.label_tokens:,} trainable tokens)",
    )
    if scored.reward_margin is not None:
        return [
            *_state(scored),
            held_out,
            ("Held-out DPO loss before", f"{scored.loss_before:.4f} nats per preference pair"),
            ("Held-out DPO loss after", f"{scored.loss_after:.4f} nats per preference pair"),
            ("Reward margin", f"{scored.reward_margin:.4f}"),
            ("Preferred answers with the higher reward", f"{scored.accuracy_after or 0:.1%}"),
        ]
    rows = [
        *_state(scored),
        held_out,
        ("Held-out loss before", f"{scored.loss_before:.4f} nats per trainable token"),
        ("Held-out loss after", f"{scored.loss_after:.4f} nats per trainable token"),
        (
            "Perplexity",
            f"{scored.perplexity_before:.2f} before, {scored.perplexity_after:.2f} after",
        ),
    ]
    before, after = scored.accuracy_before, scored.accuracy_after
    if before is not None and after is not None:
        rows.append(("Token accuracy", f"{before:.1%} before, {after:.1%} after"))
    return rows


def _state(scored: EvaluationFacts) -> list[Row]:
    if scored.step is None:
        return []
    which = "with the lowest loss" if scored.lost_best_step is None else "the best intact one"
    rows = [("Registered state", f"step {scored.step:,}, {which}")]
    if scored.lost_best_step is not None:
        lost = f"step {scored.lost_best_step:,}, with held-out loss {scored.lost_best_loss:.4f}"
        rows.append(("Best state", f"{lost}: its checkpoint was missing or damaged"))
    if scored.final_loss is not None:
        rows.append(("Held-out loss of the final state", f"{scored.final_loss:.4f}"))
    return rows


def _training(provenance: Provenance) -> list[Row]:
    cost, resumes = provenance.cost, provenance.resumes
    saved = [each for each in provenance.checkpoints if each.rejected is None]
    certified = sum(each.certified for each in resumes)
    done = saved[-1].step if saved else 0
    rows = [
        ("Steps", f"{done} of {provenance.total_steps}"),
        ("Examples trained on", str(provenance.train_examples)),
    ]
    if (stop := provenance.stopped_early) is not None:
        why = f"{stop.evaluations:,} evaluations did not lower the loss by more than the threshold"
        rows.append(("Stopped early", f"at step {stop.step:,} of {stop.planned_steps:,}: {why}"))
    if saved:
        first, last = saved[0], saved[-1]
        rows += [
            (f"Training loss at step {first.step}", f"{first.train_loss:.4f}"),
            (f"Training loss at step {last.step}", f"{last.train_loss:.4f}"),
        ]
    return [
        *rows,
        ("GPUs", _gpus(provenance)),
        ("Cost", f"{dollars(cost.amount_micros)} for {cost.metered_seconds} metered seconds"),
        ("Segments", f"{cost.segments}, {len(resumes)} of them resumed, {certified} certified"),
    ]


def _gpus(provenance: Provenance) -> str:
    """Return the GPU counts in segment order, without repeats."""
    counts = [str(count) for count, _ in groupby(each.gpu_count for each in provenance.segments)]
    hardware = provenance.hardware
    return f"{', then '.join(counts)} x {hardware.gpu_type} in {hardware.region}"


def _origin(provenance: Provenance) -> list[Row]:
    dataset, environment = provenance.dataset, provenance.environment
    rows = [
        ("Job", f"`{provenance.job_id}`, at version {provenance.job_version}"),
        ("Dataset (sha256)", _code(dataset.sha256)),
        ("Base model", provenance.base.name),
        ("Base model's manifest (sha256)", _code(provenance.base.manifest_sha256)),
        ("Base precision", provenance.precision.value),
    ]
    if (start := provenance.start) is not None:
        rows.insert(4, ("Continued from", start.model))
        rows.insert(5, ("Continued adapter's manifest (sha256)", _code(start.manifest_sha256)))
    if (validation := provenance.validation) is not None:
        rows.insert(2, ("Validation dataset (sha256)", _code(validation.sha256)))
    if dataset.uploaded_sha256 is not None:
        rows.insert(2, ("Dataset as uploaded (sha256)", _code(dataset.uploaded_sha256)))
    if (filters := dataset.filters) is not None:
        rows.insert(2, ("Dataset's filters", " ".join(filters.sentences())))
    if dataset.versions:
        versions = ", ".join(map(_version, dataset.versions))
        rows.insert(2, ("Earlier versions of the dataset", versions))
    if dataset.synthesis_id is not None:
        rows.insert(2, ("Dataset generated by synthesis", f"`{dataset.synthesis_id}`"))
    if dataset.hub_commit is not None:
        rows.insert(2, ("Dataset's commit on the hub", _code(dataset.hub_commit)))
    if environment is not None:
        libraries = environment.libraries.items()
        rows += [
            ("Computed in", f"{environment.dtype} on {environment.device}"),
            ("EcoLink", f"{environment.version} ({environment.revision or 'no revision'})"),
            ("Libraries", ", ".join(f"{name} {version}" for name, version in libraries if version)),
        ]
    return rows


def _version(version: VersionFacts) -> str:
    origins: list[str] = []
    if version.synthesis_id is not None:
        origins.append(f"generated by synthesis `{version.synthesis_id}`")
    if version.hub_commit is not None:
        origins.append(f"from commit {_code(version.hub_commit)} on the hub")
    return _code(str(version.id)) + (f" ({', '.join(origins)})" if origins else "")


def _table(rows: Iterable[Row]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _code(text: str) -> str:
    return f"`{text}`"
