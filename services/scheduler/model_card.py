"""The card of a model: its provenance for people, and as the Hugging Face hub's metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import yaml

from domain.core.money import dollars
from infrastructure.chat_template import CHAT_TEMPLATE
from infrastructure.reports import SAMPLE
from services.scheduler.provenance import PROVENANCE, Provenance

CARD = "README.md"

RESUME_FILES = (
    "state.pt",  # of checkpoints of schema version 1
    "optimizer.safetensors",
    "random.safetensors",
    "position.json",
    SAMPLE,
)
"""Files of a checkpoint that are the trainer's own: a model needs none of them."""

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

In bfloat16 PEFT adds the adapter's part to outputs that are rounded already, which loses much of a
small part: the loss below was measured with both rounded once, together, as float32 has it.

Only the assistant's words carried loss. {chat_template}
{resume_files}
## Result

{result}

## Training

{training}

## Hyperparameters

{hyperparameters}

## Where it comes from

{origin}

`{provenance}` says all this for programs, with every checkpoint and every file's hash;
`ecolink models verify` holds it against the event log.
"""


def model_card(provenance: Provenance) -> str:
    """The card as Markdown with YAML metadata; the same provenance makes the same card."""
    base = provenance.base.repository or provenance.base.name
    return TEMPLATE.format(
        metadata=yaml.safe_dump(_metadata(provenance, base), sort_keys=False),
        model=provenance.model,
        base=base,
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


def _metadata(provenance: Provenance, base: str) -> dict[str, Any]:
    """What the hub reads. The dataset is private, so that its hash stands below, not here."""
    metadata: dict[str, Any] = {
        "base_model": base,
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "ecolink", "base_model:adapter:" + base],
    }
    return metadata


def _chat_template(provenance: Provenance) -> str:
    if any(file.path == CHAT_TEMPLATE for file in provenance.files):
        return (
            "The base has no chat template: conversations were rendered with the ChatML-like one "
            f"in `{CHAT_TEMPLATE}`, and prompts must be too."
        )
    return "Conversations were rendered with the base's own chat template."


def _resume_files(provenance: Provenance) -> str:
    """A paragraph, with the line before it, for who would publish a directory as it is."""
    there = {file.path for file in provenance.files}
    own = [_code(path) for path in RESUME_FILES if path in there]
    if not own:
        return ""
    private = f" `{SAMPLE}` holds a prompt of the dataset." if SAMPLE in there else ""
    return (
        f"\nThis is a checkpoint: {', '.join(own)} are the trainer's own, for a resume.{private} "
        "Leave them out where you publish the adapter; it verifies without them.\n"
    )


Row = tuple[str, str]


def _result(provenance: Provenance) -> list[Row]:
    scored = provenance.evaluation
    if scored is None:
        return [("Held-out loss", "not evaluated: the job was stopped before")]
    rows = [
        ("Held-out examples", f"{scored.examples} ({scored.label_tokens} label tokens)"),
        ("Held-out loss before", f"{scored.loss_before:.4f} nats per label token"),
        ("Held-out loss after", f"{scored.loss_after:.4f} nats per label token"),
        (
            "Perplexity",
            f"{scored.perplexity_before:.2f} before, {scored.perplexity_after:.2f} after",
        ),
    ]
    before, after = scored.accuracy_before, scored.accuracy_after
    if before is not None and after is not None:
        rows.append(("Tokens right", f"{before:.1%} before, {after:.1%} after"))
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
    """How many there were, in order where it changed between two segments."""
    counts = [str(count) for count, _ in groupby(each.gpu_count for each in provenance.segments)]
    hardware = provenance.hardware
    return f"{', then '.join(counts)} x {hardware.gpu_type} in {hardware.region}"


def _origin(provenance: Provenance) -> list[Row]:
    dataset, environment = provenance.dataset, provenance.environment
    rows = [
        ("Job", f"`{provenance.job_id}`, up to its event {provenance.job_version}"),
        ("Dataset (sha256)", _code(dataset.sha256)),
        ("Base model", provenance.base.name),
        ("Base model's manifest (sha256)", _code(provenance.base.manifest_sha256)),
        ("Base held in", provenance.precision.value),
    ]
    if (validation := provenance.validation) is not None:
        rows.insert(2, ("Validation dataset (sha256)", _code(validation.sha256)))
    if dataset.uploaded_sha256 is not None:
        rows.insert(2, ("Dataset as uploaded (sha256)", _code(dataset.uploaded_sha256)))
    if environment is not None:
        libraries = environment.libraries.items()
        rows += [
            ("Computed in", f"{environment.dtype} on {environment.device}"),
            ("EcoLink", f"{environment.version} ({environment.revision or 'no revision'})"),
            ("Libraries", ", ".join(f"{name} {version}" for name, version in libraries if version)),
        ]
    return rows


def _table(rows: Sequence[Row] | Any) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _code(text: str) -> str:
    return f"`{text}`"
