"""The catalog: the GPU types, regions and base models that jobs can use, with prices."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import ClassVar, TypeVar
from uuid import UUID

from eventsourcing.domain import event

from domain.catalog.catalog_entries import CatalogBase, GpuType, Offer, Offers, Region
from domain.catalog.display_names import DisplayNames
from domain.core.aggregate import Aggregate, Created
from domain.core.errors import Invalid, NotFound
from domain.core.identity import CATALOG_ID, PLATFORM_ACCOUNT_ID

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

MOST_VRAM_GIB, MOST_TFLOPS, MOST_PER_JOB, MOST_CAPACITY = 10_000, 1_000_000, 64, 100_000
MOST_MICROS_PER_HOUR = 10_000 * 1_000_000
"""Upper limits of the catalog's values, which catch typing errors."""

T = TypeVar("T", bound=Offer)


class Catalog(Aggregate):
    """The GPU types, the regions with their capacity, and the base models, by name.

    Repeated commands have no effect.
    """

    TOPIC: ClassVar[str] = "Catalog"

    class Event(Aggregate.Event):
        """Base class of the events of the catalog."""

    class CatalogOpened(Event, Created):
        """The platform's catalog was created without entries."""

    class GpuTypeOffered(Event):
        """The GPU type was added or changed. New jobs may use it at this price."""

        gpu_type: GpuType

    class GpuTypeWithdrawn(Event):
        """The GPU type was withdrawn. New jobs can no longer use it."""

        name: str

    class RegionOffered(Event):
        """The region was added or changed. New jobs may run in it."""

        region: Region

    class RegionWithdrawn(Event):
        """The region was withdrawn. New jobs can no longer run in it."""

        name: str

    class CapacityDeclared(Event):
        """An operator set the number of GPUs of a type in a region."""

        region: str
        gpu_type: str
        count: int

    class BaseModelListed(Event):
        """A base model's entry was added or changed, including whether it may be fine-tuned."""

        base: CatalogBase

    class BaseModelDelisted(Event):
        """A base model was removed from the catalog."""

        name: str

    @classmethod
    def open(cls) -> Catalog:
        """Return the empty catalog of a new platform."""
        return cls._create(cls.CatalogOpened, id=CATALOG_ID, account_id=PLATFORM_ACCOUNT_ID)

    @event(CatalogOpened)
    def __init__(self, account_id: UUID) -> None:
        self.account_id = account_id
        self.gpu_types: dict[str, GpuType] = {}
        self.regions: dict[str, Region] = {}
        self.bases: dict[str, CatalogBase] = {}
        # This includes withdrawn GPU types, so that seeding does not restore them.
        self.known_gpu_types: set[str] = set()
        self.known_regions: set[str] = set()
        self.known_capacity: set[tuple[str, str]] = set()  # (region, GPU type)
        self.known_bases: set[str] = set()

    @property
    def version_text(self) -> str:
        """Version of the catalog, as recorded in the plan of a job."""
        return str(self.version)

    @property
    def display_names(self) -> DisplayNames:
        """Display names of all GPU types and regions."""
        return DisplayNames(
            {each.name: each.title for each in self.gpu_types.values()},
            {each.name: each.title for each in self.regions.values()},
            {each.name for each in self.gpu_types.values() if each.backing == "cpu"},
        )

    def gpu_type(self, name: str) -> GpuType:
        """Return a GPU type. Raise Invalid, which lists the available names, if it is unknown."""
        return _offered(self.gpu_types, name, "GPU type", "gpu_type")

    def region(self, name: str) -> Region:
        """Return a region. Raise Invalid, which lists the available names, if it is unknown."""
        return _offered(self.regions, name, "region", "region")

    def is_eligible(self, name: str) -> bool:
        """Return True unless the base model was delisted. It need not be imported yet."""
        if name in self.bases:
            return self.bases[name].eligible
        return name not in self.known_bases

    def rate_micros_per_hour(self, gpu_type: str, gpu_count: int) -> int:
        """Return the hourly price of `gpu_count` GPUs in micro-dollars, or raise Invalid."""
        kind = self.gpu_type(gpu_type)
        if not 1 <= gpu_count <= kind.max_per_job:
            raise Invalid(
                f"A job cannot use {gpu_count} GPUs of type {kind.title}. Choose 1 to "
                f"{kind.max_per_job}.",
                field="gpu_count",
            )
        return kind.micros_per_hour * gpu_count

    def offer_gpu_type(self, gpu_type: GpuType) -> None:
        """Add or change a GPU type. Raise Invalid if a value is out of range."""
        _require_name(gpu_type)
        _require_figures(gpu_type)
        for other in self.gpu_types.values():
            shared = set(other.device_names) & set(gpu_type.device_names)
            if other.name != gpu_type.name and shared:
                raise Invalid(
                    f"The device name {min(shared)!r} already belongs to the GPU type "
                    f"{other.name!r}. Remove it from one of the two.",
                    field="device_names",
                )
        if self.gpu_types.get(gpu_type.name) != gpu_type:
            self.trigger_event(self.GpuTypeOffered, gpu_type=gpu_type)

    @event(GpuTypeOffered)
    def _gpu_type_offered(self, gpu_type: GpuType) -> None:
        self.gpu_types[gpu_type.name] = gpu_type
        self.known_gpu_types.add(gpu_type.name)

    def withdraw_gpu_type(self, name: str) -> None:
        """Withdraw a GPU type that no region has. Running jobs keep their GPUs."""
        _require_there(self.gpu_types, name, "GPU type", "gpu_type")
        having = [each.name for each in self.regions.values() if each.capacity.get(name)]
        if having:
            raise Invalid(
                f"The GPU type {name!r} has capacity in {', '.join(having)}. Set the capacity "
                "there to 0 first.",
                field="gpu_type",
            )
        self.trigger_event(self.GpuTypeWithdrawn, name=name)

    @event(GpuTypeWithdrawn)
    def _gpu_type_withdrawn(self, name: str) -> None:
        del self.gpu_types[name]
        for region in self.regions.values():
            region.capacity.pop(name, None)

    def offer_region(self, region: Region) -> None:
        """Add or change a region and its capacity. Raise Invalid if a value is out of range."""
        _require_name(region)
        _require_title(region.title)
        for gpu_type, count in region.capacity.items():
            self._require_capacity(gpu_type, count)
        if self.regions.get(region.name) != region:
            self.trigger_event(self.RegionOffered, region=region)

    @event(RegionOffered)
    def _region_offered(self, region: Region) -> None:
        # A copy, because CapacityDeclared changes the capacity but events are immutable.
        self.regions[region.name] = region.model_copy(update={"capacity": dict(region.capacity)})
        self.known_regions.add(region.name)
        self.known_capacity |= {(region.name, gpu_type) for gpu_type in region.capacity}

    def withdraw_region(self, name: str) -> None:
        """Withdraw a region, or raise NotFound. Running jobs keep their GPUs."""
        _require_there(self.regions, name, "region", "region")
        self.trigger_event(self.RegionWithdrawn, name=name)

    @event(RegionWithdrawn)
    def _region_withdrawn(self, name: str) -> None:
        del self.regions[name]

    def declare_capacity(self, region: str, gpu_type: str, count: int) -> None:
        """Set the number of GPUs of a type in a region, or raise Invalid."""
        place = self.region(region)
        self._require_capacity(gpu_type, count)
        if place.capacity.get(gpu_type) != count:
            self.trigger_event(self.CapacityDeclared, region=region, gpu_type=gpu_type, count=count)

    @event(CapacityDeclared)
    def _capacity_declared(self, region: str, gpu_type: str, count: int) -> None:
        self.regions[region].capacity[gpu_type] = count
        self.known_capacity.add((region, gpu_type))

    def list_base(self, base: CatalogBase) -> None:
        """Add or change a base model. Raise Invalid if a value is invalid."""
        _require_name(base)
        for field, value in base.shape.model_dump(exclude={"tied_embeddings", "linears"}).items():
            if value < 1:
                raise Invalid(f"{field} is {value}. It must be at least 1.", field=field)
        if self.bases.get(base.name) != base:
            self.trigger_event(self.BaseModelListed, base=base)

    @event(BaseModelListed)
    def _base_model_listed(self, base: CatalogBase) -> None:
        self.bases[base.name] = base
        self.known_bases.add(base.name)

    def delist_base(self, name: str) -> None:
        """Remove a base model from the catalog, but not from the model store."""
        _require_there(self.bases, name, "base model", "base_model")
        self.trigger_event(self.BaseModelDelisted, name=name)

    @event(BaseModelDelisted)
    def _base_model_delisted(self, name: str) -> None:
        del self.bases[name]

    def seed(self, offers: Offers) -> None:
        """Add new entries. Entries that an operator has changed or withdrawn stay unchanged."""
        for gpu_type in _new(offers.gpu_types, self.known_gpu_types):
            self.offer_gpu_type(gpu_type)
        for region in offers.regions:
            self._seed_region(region)
        for base in _new(offers.bases, self.known_bases):
            self.list_base(base)

    def _seed_region(self, region: Region) -> None:
        offered = {name: count for name, count in region.capacity.items() if name in self.gpu_types}
        if region.name not in self.known_regions:
            self.offer_region(region.model_copy(update={"capacity": offered}))
        elif region.name in self.regions:
            for gpu_type, count in offered.items():
                if (region.name, gpu_type) not in self.known_capacity:
                    self.declare_capacity(region.name, gpu_type, count)

    def _require_capacity(self, gpu_type: str, count: int) -> None:
        self.gpu_type(gpu_type)
        if not 0 <= count <= MOST_CAPACITY:
            raise Invalid(
                f"The capacity {count} of {gpu_type} is invalid. Enter 0 to {MOST_CAPACITY:,}.",
                field="capacity",
            )


def _offered(offered: Mapping[str, T], name: str, noun: str, field: str) -> T:
    found = offered.get(name)
    if found is None:
        available = ", ".join(sorted(offered)) or "none"
        raise Invalid(f"Unknown {noun} {name!r}. Available: {available}.", field=field)
    return found


def _require_there(offered: Mapping[str, Offer], name: str, noun: str, field: str) -> None:
    if name not in offered:
        raise NotFound(f"Unknown {noun} {name!r}. See `ecolink catalog show`.", field=field)


def _require_name(offer: Offer) -> None:
    if not NAME.fullmatch(offer.name):
        raise Invalid(
            f"The name {offer.name!r} is invalid. Use 1 to 100 letters, digits, dots, dashes and "
            "underscores.",
            field="name",
        )


def _require_title(title: str) -> None:
    if not title.strip():
        raise Invalid("The title is empty. Enter a title.", field="title")


def _require_figures(gpu_type: GpuType) -> None:
    _require_title(gpu_type.title)
    _require_figure("vram_gib", gpu_type.vram_gib, MOST_VRAM_GIB)
    _require_figure("bf16_tflops", gpu_type.bf16_tflops, MOST_TFLOPS)
    _require_figure("micros_per_hour", gpu_type.micros_per_hour, MOST_MICROS_PER_HOUR)
    _require_figure("max_per_job", gpu_type.max_per_job, MOST_PER_JOB)


def _require_figure(field: str, value: float, most: float) -> None:
    if not (math.isfinite(value) and 0 < value <= most):
        raise Invalid(f"{field} is {value}. It must be above 0 and at most {most:,}.", field=field)


def _new(offers: Iterable[T], known: set[str]) -> list[T]:
    return [offer for offer in offers if offer.name not in known]
