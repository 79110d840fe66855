"""The settings: every environment variable of EcoLink, and the limits that one of them changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from uuid import UUID

from pydantic import ByteSize, HttpUrl
from pydantic.fields import FieldInfo

from domain.core.quantities import GIB
from infrastructure.extensions import PREFIX, installed
from infrastructure.http.limits import Limits
from infrastructure.limits import Limit
from infrastructure.settings import INTERNAL, Settings
from tests.docs import markdown
from tests.docs.markdown import code, text

TYPES: dict[Any, str] = {
    str: "text",
    int: "integer",
    float: "number",
    Decimal: "amount in dollars",
    ByteSize: "size",
    bool: "true or false",
    Path: "path",
    HttpUrl: "URL",
    UUID: "UUID",
}


def page() -> str:
    """Every setting with type, default and meaning, and every limit."""
    return markdown.page(
        "Settings",
        "EcoLink reads its configuration from environment variables. Every process of an "
        "installation needs the same values, unless a description says otherwise. The last part "
        "of a name is its unit, such as `_SECONDS`. A size is a number of bytes, or a number with "
        "a unit, such as `20GiB` or `512MiB`. `ecolink doctor` reports names that are not "
        "settings.",
        *(
            markdown.section(str(area.__doc__).rstrip("."), _variables(area.model_fields))
            for area in Settings.__bases__
        ),
        *(
            markdown.section(f"Extension: {each.name}", each.summary, variables)
            for each in installed()
            if (variables := _variables(each.own_settings))
        ),
        markdown.section(
            "Limits",
            "`ECOLINK_LIMITS` is a JSON object with the limits that differ from these defaults, "
            'such as `{"datasets": 50}`. `ecolink security limits` shows the values in force.',
            markdown.table(
                ("limit", "default", "counts for", "meaning"),
                map(_limit, Limits({}).declared.values()),
            ),
        ),
    )


def _variables(fields: Mapping[str, FieldInfo]) -> str:
    rows = [
        (
            code(f"{PREFIX}{name}".upper()),
            _type(field.annotation),
            _default(field.default),
            text(field.description),
        )
        for name, field in fields.items()
        if INTERNAL not in field.metadata
    ]
    return markdown.table(("variable", "type", "default", "meaning"), rows)


def _limit(limit: Limit) -> tuple[str, ...]:
    rate = f" in {limit.per_seconds:,} s" if limit.per_seconds else ""
    return code(limit.name), f"{limit.default:,}{rate}", limit.scope, text(limit.description)


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(map(code, get_args(annotation)))
    if get_origin(annotation) is dict:
        return "JSON object"
    if parts := [part for part in get_args(annotation) if part is not type(None)]:
        return _type(parts[0])
    return TYPES[annotation]


def _default(default: Any) -> str:
    if isinstance(default, ByteSize):
        return code(f"{default / GIB:g}GiB")
    if default == "":
        return "empty"
    return "unset" if default is None else code(json.dumps(default, default=str).strip('"'))
