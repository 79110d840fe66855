"""The hyperparameters: names, defaults, bounds and meanings."""

from __future__ import annotations

from typing import Any

from domain.training.hyperparameters import FIELDS, HUGGING_FACE, Hyperparameters, written
from tests.docs import markdown
from tests.docs.markdown import code, text


def page() -> str:
    """Every hyperparameter, with its name in Hugging Face libraries."""
    return markdown.page(
        "Hyperparameters",
        "A job accepts these hyperparameters in `/api`, in the `extra_body` of OpenAI's client, "
        "and as options of `ecolink jobs launch`, such as `--learning-rate`. You can also use the "
        "names of transformers, PEFT and TRL in the second column. Responses have the names of the "
        "first column. A request with an unknown name, or with two names of one hyperparameter, "
        "fails.",
        markdown.table(("name", "also", "values", "default", "meaning"), map(_row, FIELDS)),
    )


def _row(name: str) -> tuple[str, ...]:
    field = FIELDS[name]
    default = "unset" if field.default is None else code(_written(field.default))
    return (
        code(name),
        code(HUGGING_FACE[name]) if name in HUGGING_FACE else "—",
        _values(SCHEMAS[name]),
        default,
        text(field.description),
    )


SCHEMAS: dict[str, Any] = Hyperparameters.model_json_schema()["properties"]


def _written(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else written(default)


def _values(schema: dict[str, Any]) -> str:
    """Return the type and the bounds of a JSON schema, such as "integer, from 1, at most 100"."""
    schema = schema.get("anyOf", [schema])[0]
    if "enum" in schema:
        return " or ".join(map(code, schema["enum"]))
    kind = {"boolean": "true or false", "array": "list of names"}.get(schema["type"])
    bounds = [f"{word} {schema[key]:,}" for key, word in BOUNDS.items() if key in schema]
    return kind or ", ".join([schema["type"], *bounds])


BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
