"""Catalog entries: GPU types, regions with their capacity, and base models."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from domain.catalog.model_shape import ModelShape, fused_linears, separate_linears
from domain.core.value import Value
from domain.training.precision import Dtype

NF4_BYTES = 4.127 / 8
"""Bytes per parameter in NF4 with double quantization. Source: QLoRA (2023), section 3."""


class Offer(Value):
    """Base class of catalog entries."""

    name: str


class GpuType(Offer):
    """A GPU type with its hourly price."""

    title: str
    vram_gib: float
    micros_per_hour: int  # price of one GPU
    bf16_tflops: float  # dense peak of one GPU
    backing: Literal["nvidia", "cpu"]
    device_names: tuple[str, ...] = ()  # names that the driver reports
    dtype: Dtype | None = None  # None: bf16 on a GPU; on a CPU, the probed dtype
    max_per_job: int
    source: str

    @property
    def computes_in(self) -> Dtype:
        """Dtype in which jobs compute; float32 on a CPU that was not probed."""
        return self.dtype or (Dtype.FLOAT32 if self.backing == "cpu" else Dtype.BF16)


class Region(Offer):
    """A region and its number of GPUs of each type."""

    title: str
    capacity: dict[str, int]


class CatalogBase(Offer):
    """A base model that operators can import."""

    repository: str
    shape: ModelShape
    eligible: bool  # jobs may fine-tune it
    source: str


class Offers(BaseModel):
    """The entries that seed the platform's catalog."""

    model_config = ConfigDict(frozen=True)

    gpu_types: tuple[GpuType, ...]
    regions: tuple[Region, ...]
    bases: tuple[CatalogBase, ...]


class _Configuration(Value):
    """The configuration of a base model, from which EcoLink derives its linear modules."""

    repository: str
    parameters: int
    layers: int
    hidden_size: int
    intermediate_size: int
    attention_heads: int
    kv_heads: int
    head_dim: int | None = None  # None: hidden_size / attention_heads
    vocab_size: int
    context_length: int
    tied_embeddings: bool
    fused_projections: bool = False
    eligible: bool = True
    source: str

    def base(self, name: str) -> CatalogBase:
        """Return the catalog entry."""
        head_dim = self.head_dim or self.hidden_size // self.attention_heads
        linears = fused_linears if self.fused_projections else separate_linears
        beside_shape = {"repository", "head_dim", "fused_projections", "eligible", "source"}
        return CatalogBase(
            name=name,
            repository=self.repository,
            shape=ModelShape(
                **self.model_dump(exclude=beside_shape),
                head_dim=head_dim,
                linears=linears(
                    self.hidden_size,
                    self.intermediate_size,
                    self.attention_heads,
                    self.kv_heads,
                    head_dim,
                ),
            ),
            eligible=self.eligible,
            source=self.source,
        )


class _Document(Value):
    gpu_types: Mapping[str, Mapping[str, object]]
    regions: Mapping[str, Mapping[str, object]]
    bases: Mapping[str, _Configuration]


def read_offers(text: str) -> Offers:
    """Parse a catalog in TOML. Raise pydantic's ValidationError if it is invalid."""
    document = _Document.model_validate(tomllib.loads(text))
    return Offers(
        gpu_types=tuple(
            GpuType.model_validate({"name": name, **entry})
            for name, entry in document.gpu_types.items()
        ),
        regions=tuple(
            Region.model_validate({"name": name, **entry})
            for name, entry in document.regions.items()
        ),
        bases=tuple(entry.base(name) for name, entry in document.bases.items()),
    )


class _Price(BaseModel):
    micros_per_hour: Annotated[int, Field(ge=0)]


class _Prices(BaseModel):
    gpu_types: Mapping[str, _Price]


def read_prices(text: str) -> dict[str, int]:
    """Return `micros_per_hour` of each GPU type of a catalog in TOML, or raise ValueError."""
    document = _Prices.model_validate(tomllib.loads(text))
    return {name: entry.micros_per_hour for name, entry in document.gpu_types.items()}


@cache
def shipped_offers() -> Offers:
    """Return the entries of the `catalog.toml` that ships with EcoLink."""
    return read_offers(files("domain.catalog").joinpath("catalog.toml").read_text(encoding="utf-8"))
