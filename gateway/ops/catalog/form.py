"""The form of a change of the catalog."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, StringConstraints, ValidationError

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
    """A change of one entry. A blank field clears its value, and an absent one keeps it."""

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
        fields = self.model_dump(exclude={"version"}, exclude_unset=True)
        return {name: "" if value is None else str(value) for name, value in fields.items()}

    def change(self, log: EventLog) -> Change:
        """Return the change. Raise Invalid for a malformed price or an empty value."""
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
        given = self._sent(
            *("title", "price", "vram_gib", "bf16_tflops", "backing", "max_per_job", "source")
        )
        for name, value in given.items():
            if value in (None, ""):
                raise Invalid(f"The field {name} is empty. Enter a value.", field=name)
        if given.pop("price", None):
            given["micros_per_hour"] = micros_of(self.price, field="price")
        if "device_names" in self.model_fields_set:
            names = map(str.strip, self.device_names.splitlines())
            given["device_names"] = tuple(filter(None, names))
        return given

    def _base(self) -> dict[str, object]:
        eligible = {} if self.eligible is None else {"eligible": self.eligible}
        return eligible | self._sent("repository", "source")

    def _sent(self, *names: str) -> dict[str, object]:
        """Return those of the fields that the form has, blank ones included."""
        return {name: getattr(self, name) for name in names if name in self.model_fields_set}


async def sent_form(request: Request) -> CatalogForm:
    """Return the form of a request, with its blank fields, which FastAPI's `Form` would drop."""
    try:
        return CatalogForm.model_validate(dict(await request.form()))
    except ValidationError as error:
        problems = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        raise RequestValidationError(problems) from None
