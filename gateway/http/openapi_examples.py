"""Examples for the OpenAPI document, generated from its schemas."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

JOB, MODEL = "ftjob-0b0f8f5c3a4e5d0c9a4d0e6b1c2d3e4f", "ft:smollm2-135m-instruct:0b0f8f5c3a4e"

VALUES: dict[str, Any] = {
    "accuracy": 0.52,
    "adapter_ref": f"adapters/{JOB.removeprefix('ftjob-')}",
    "advice": "Choose a larger GPU, or fewer examples a micro batch.",
    "answer": "Your order is on its way.",
    "banner": "The base model fits in 16 bits. No quantization is needed.",
    "base_model": "smollm2-135m-instruct",
    "best_note": None,
    "bytes": 19_600_000,
    "capacity": 4,
    "content": "Hello!",
    "charged": {"micros": 184_000, "text": "$0.18"},
    "cost": {"micros": 184_000, "text": "$0.18"},
    "credit": "revenue",
    "credited": {"micros": 0, "text": "$0.00"},
    "debit": "customer",
    "eval_loss": 2.05,
    "examples": 1200,
    "failure": None,
    "fine_tuned_model": MODEL,
    "finish_reason": "stop",
    "gpu_type": "cpu",
    "has_more": False,
    "hint": "x7Qa",
    "kept": None,
    "loss_after": 1.94,
    "loss_before": 2.71,
    "message": "a sentence for a person",
    "missing": {"micros": 0, "text": "$0.00"},
    "model": MODEL,
    "name": "support chats",
    "perplexity": 7.8,
    "problem": None,
    "rate_per_hour": {"micros": 600_000, "text": "$0.60"},
    "region": "local",
    "repository": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "reserved": {"micros": 50_000, "text": "$0.05"},
    "role": "user",
    "sentence": "The GPU's memory was not enough.",
    "sequence_length": 512,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "source": "list price, 2026-11",
    "step": 40,
    "steps_remaining": 185,
    "suffix": "support",
    "text": "step 40 of 225, loss 1.92",
    "title": "CPU, 8 GiB",
    "tokens": 184_000,
    "tokens_per_second": 905.0,
    "total_bytes": 812_340,
    "total_steps": 225,
    "train_loss": 1.92,
    "training_file": "file-9b2d1c9e6d1f4a539a3e2f1c5d7e8a90",
}
"""Example values by field name, for fields without their own examples."""

BY_FORMAT = {
    "uuid": "9b2d1c9e-6d1f-4a53-9a3e-2f1c5d7e8a90",
    "date-time": "2026-11-25T16:20:00Z",
    "date": "2026-11-25",
    "binary": "",
}

DEPTH = 12


def example_of(
    schema: Schema, components: dict[str, Schema], name: str = "", depth: int = 0
) -> Any:
    """Return a realistic value for a schema. `name` is the name of its field."""
    if "$ref" in schema:
        schema = components[schema["$ref"].rpartition("/")[2]] | _without_ref(schema)
    if schema.get("examples"):
        return schema["examples"][0]
    for key in ("example", "const"):
        if key in schema:
            return schema[key]
    if name in VALUES and _accepts(schema, VALUES[name], components):
        return VALUES[name]
    if schema.get("default") is not None:
        return schema["default"]
    if "enum" in schema:
        return schema["enum"][0]
    variants = schema.get("anyOf") or schema.get("oneOf")
    if variants:
        chosen = next((each for each in variants if each.get("type") != "null"), variants[0])
        return example_of(chosen, components, name, depth)
    return _of_type(schema, components, name, depth)


def _of_type(schema: Schema, components: dict[str, Schema], name: str, depth: int) -> Any:
    match schema.get("type"):
        case "object":
            fields = schema.get("properties", {})
            if depth >= DEPTH or not fields:
                return {}
            return {
                field: example_of(part, components, field, depth + 1)
                for field, part in fields.items()
            }
        case "array":
            item = example_of(schema.get("items", {}), components, name, depth + 1)
            return [] if item is None else [item]
        case "integer":
            return max(1, int(schema.get("minimum", 1)))
        case "number":
            return max(1.0, float(schema.get("minimum", 1)))
        case "boolean":
            return False
        case "string":
            return BY_FORMAT.get(schema.get("format", ""), name.replace("_", " ") or "text")
        case _:
            return None


def _without_ref(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key != "$ref"}


KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "object": (dict,),
}


def _accepts(schema: Schema, value: Any, components: dict[str, Schema]) -> bool:
    """Return True if a scalar value matches a schema's type."""
    if "$ref" in schema:
        return _accepts(components[schema["$ref"].rpartition("/")[2]], value, components)
    if "enum" in schema:
        return value in schema["enum"]
    variants = schema.get("anyOf")
    if variants:
        return any(_accepts(each, value, components) for each in variants)
    return isinstance(value, KINDS.get(schema.get("type", ""), ())) and "format" not in schema
