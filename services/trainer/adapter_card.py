"""The card of a finished adapter: what it was trained on, how, and what it gained."""

from __future__ import annotations

import json
from pathlib import Path

from infrastructure.reports import Evaluation, SegmentSpec

CARD = """\
---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
tags: [lora]
---

# LoRA adapter of job {job}

Load it with `peft.PeftModel.from_pretrained(base, directory)`.

| | |
|---|---|
| Base model | {base} |
| Base's precision in training | {precision} |
| Dataset (sha256) | `{dataset}` |
| Examples trained on | {examples} |
| Held-out examples | {held_out} ({label_tokens} label tokens) |
| Held-out loss before | {before:.4f} nats per label token |
| Held-out loss after | {after:.4f} nats per label token |

Only the assistant's words carried loss. {template}

## Hyperparameters

```json
{hyperparameters}
```
"""


def write_card(
    directory: Path,
    spec: SegmentSpec,
    evaluation: Evaluation,
    examples: int,
    fallback_template: str | None,
) -> None:
    """Write README.md into the adapter's directory, and the chat template if the base has none."""
    template = "Conversations were rendered with the base's own chat template."
    if fallback_template is not None:
        (directory / "chat_template.jinja").write_text(fallback_template)
        template = (
            "The base has no chat template: conversations were rendered with the ChatML-like one "
            "in `chat_template.jinja`, and prompts must be too."
        )
    card = CARD.format(
        base=spec.base_model,
        precision=spec.precision.value,
        job=spec.job_id,
        dataset=spec.dataset_sha256,
        examples=examples,
        held_out=evaluation.examples,
        label_tokens=evaluation.label_tokens,
        before=evaluation.loss_before,
        after=evaluation.loss_after,
        template=template,
        hyperparameters=json.dumps(spec.hyperparameters.model_dump(mode="json"), indent=1),
    )
    (directory / "README.md").write_text(card)
