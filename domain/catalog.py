"""The catalog: GPU types with their hourly rate, and regions with the types they offer."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict

from domain.errors import Invalid


class GpuType(BaseModel):
    """A GPU type at its hourly price."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    micros_per_hour: int
    max_per_job: int


class Region(BaseModel):
    """Where GPUs stand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    gpu_types: tuple[str, ...]


class Catalog(BaseModel):
    """What the platform offers, under a version that each approval records."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    gpu_types: dict[str, GpuType]
    regions: dict[str, Region]

    def rate_micros_per_hour(self, region: str, gpu_type: str, gpu_count: int) -> int:
        """Price of some GPUs for an hour, micro-dollars; raises Invalid with the field."""
        if region not in self.regions:
            raise Invalid(
                f"no region {region!r}; choose from {_names(self.regions)}", field="region"
            )
        offered = self.regions[region].gpu_types
        if gpu_type not in offered:
            raise Invalid(
                f"{region} has no GPU type {gpu_type!r}; choose from {_names(offered)}",
                field="gpu_type",
            )
        most = self.gpu_types[gpu_type].max_per_job
        if not 1 <= gpu_count <= most:
            raise Invalid(f"a job may use 1 to {most} of {gpu_type}", field="gpu_count")
        return self.gpu_types[gpu_type].micros_per_hour * gpu_count


@cache
def catalog() -> Catalog:
    """The catalog that ships with the code."""
    text = files("domain").joinpath("catalog.toml").read_text(encoding="utf-8")
    return Catalog.model_validate(tomllib.loads(text))


def _names(names: dict[str, Region] | tuple[str, ...]) -> str:
    return ", ".join(sorted(names))
