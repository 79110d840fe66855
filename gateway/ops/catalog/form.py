"""The form of a change of the catalog."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from domain.core.errors import Invalid
from domain.core.event_log import EventLog
from domain.core.money import micros_of
from domain.use_cases.catalog import Change, base_change, gpu_type_change, region_change
from gateway.web.addresses import Given

Name = Annotated[str, StringConstraints(strip_whitespace=True, max_length=100)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)]
Names = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2_000)]
Number = Annotated[float | None, Given]
Count = Annotated[int | None, Given]


class Kind(StrEnum):
    """Changes of the catalog."""

    GPU_TYPE = "gpu-type"
    GPU_TYPE_WITHDRAWAL = "gpu-type-withdrawal"
    REGION = "region"
    REGION_WITHDRAWAL = "region-withdrawal"
    CAPACITY = "capacity"
    BASE = "base"
    BASE_WITHDRAWAL = "base-withdrawal"


class CatalogForm(BaseModel):
    """A change of one entry. Blank fields keep their value, except the device names."""

    kind: Kind
    version: Annotated[int, Field(ge=0)]
    """Version of the catalog that the operator saw."""
    name: Name
    title: Text = ""
    vram_gib: Number = None
    price: Annotated[str, StringConstraints(strip_whitespace=True, max_length=40)] = ""
    bf16_tflops: Number = None
    backing: Annotated[Literal["nvidia", "cpu"] | None, Given] = None
    device_names: Names = ""
    """Names in nvidia-smi, one in each line."""
    max_per_job: Count = None
    source: Text = ""
    gpu_type: Name = ""
    count: Count = None
    eligible: Annotated[bool | None, Given] = None
    repository: Text = ""

    @property
    def entered(self) -> dict[str, str]:
        """Fields of the form without its version, as a browser sends them."""
        fields = self.model_dump(exclude={"version"}, exclude_defaults=True)
        return {name: str(value) for name, value in fields.items()}

    def change(self, log: EventLog) -> Change:
        """Return the change. Raise Invalid for a malformed price or a missing count."""
        match self.kind:
            case Kind.GPU_TYPE:
                return gpu_type_change(self.name, self._gpu_type())
            case Kind.GPU_TYPE_WITHDRAWAL:
                return lambda catalog: catalog.withdraw_gpu_type(self.name)
            case Kind.REGION:
                return region_change(self.name, self.title)
            case Kind.REGION_WITHDRAWAL:
                return lambda catalog: catalog.withdraw_region(self.name)
            case Kind.CAPACITY:
                count = self.count
                if count is None:
                    raise Invalid("The number of GPUs is empty. Enter 0 or more.", field="count")
                return lambda catalog: catalog.declare_capacity(self.name, self.gpu_type, count)
            case Kind.BASE:
                return base_change(log, self.name, self._base())
            case Kind.BASE_WITHDRAWAL:
                return lambda catalog: catalog.delist_base(self.name)

    def _gpu_type(self) -> dict[str, object]:
        names = tuple(filter(None, map(str.strip, self.device_names.splitlines())))
        given = {
            "title": self.title,
            "vram_gib": self.vram_gib,
            "micros_per_hour": micros_of(self.price, field="price") if self.price else None,
            "bf16_tflops": self.bf16_tflops,
            "backing": self.backing,
            "max_per_job": self.max_per_job,
            "source": self.source,
        }
        return {"device_names": names} | _entered(given)

    def _base(self) -> dict[str, object]:
        given = {"eligible": self.eligible, "repository": self.repository, "source": self.source}
        return _entered(given)


def _entered(fields: dict[str, object]) -> dict[str, object]:
    """Return the fields that are not blank."""
    return {name: value for name, value in fields.items() if value not in (None, "")}
