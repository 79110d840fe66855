"""The values that a change of the catalog would replace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import Offer
from domain.core.money import exact_dollars
from gateway.ops.catalog.form import CatalogForm, Kind

PRICE, ELIGIBLE = "micros_per_hour", "eligible"

LABELS = {
    "title": "Display name",
    "vram_gib": "Memory of one GPU, GiB",
    PRICE: "Price of one GPU per hour",
    "bf16_tflops": "Dense bf16 throughput, TFLOPS",
    "backing": "Hardware",
    "device_names": "Device names",
    "max_per_job": "Most GPUs per job",
    ELIGIBLE: "Fine-tuning",
    "shape": "Dimensions",
    "repository": "Repository",
    "source": "Source",
}
"""Labels of the fields of an entry, in the order of the page."""

NONE = "–"


@dataclass(frozen=True)
class Difference:
    """A field of an entry with its values before and after a change."""

    field: str
    label: str
    before: str
    after: str


def differences(
    form: CatalogForm, before: Catalog, after: Catalog, offered: int
) -> list[Difference]:
    """Return the fields of the form's entry that differ between two catalogs.

    `offered` is the number of GPUs in the pool of a form that changes a capacity.
    """
    if form.kind is Kind.CAPACITY:
        old = before.regions[form.name].capacity.get(form.gpu_type)
        new = after.regions[form.name].capacity[form.gpu_type]
        text = f"{old:,}" if old is not None else undeclared(offered)
        return [Difference("capacity", "GPUs", text, f"{new:,}")] if old != new else []
    known, changed = (_entries(form.kind, each).get(form.name) for each in (before, after))
    if changed is None:
        return [Difference("entry", "Catalog", "has the entry", "does not have the entry")]
    old, new = _fields(known), _fields(changed)
    return [
        Difference(name, label, old.get(name, NONE), new[name])
        for name, label in LABELS.items()
        if name in new and old.get(name) != new[name]
    ]


def undeclared(offered: int) -> str:
    """Return the text for a capacity that the catalog does not declare.

    `offered` is the number of GPUs in the pool, which are all those of the machine.
    """
    return f"not declared: all GPUs of the machine, now {offered:,}" if offered else "not declared"


def _entries(kind: Kind, catalog: Catalog) -> Mapping[str, Offer]:
    match kind:
        case Kind.GPU_TYPE | Kind.GPU_TYPE_WITHDRAWAL:
            return catalog.gpu_types
        case Kind.BASE | Kind.BASE_WITHDRAWAL:
            return catalog.bases
        case _:
            return catalog.regions


def _fields(entry: Offer | None) -> dict[str, str]:
    return {} if entry is None else {name: _written(name, value) for name, value in entry}


def _written(name: str, value: Any) -> str:
    match value:
        case _ if name == PRICE:
            return exact_dollars(value)
        case _ if name == "shape":
            return f"{value.parameters:,} parameters, {value.layers} layers"
        case bool():
            return "allowed" if value else "not allowed"
        case tuple():
            return ", ".join(value) or NONE
        case float():
            return f"{value:,g}"
        case _:
            return str(value) or NONE
