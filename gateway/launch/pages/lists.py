"""What the wizard's lists offer now, and what of it was chosen and is gone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from domain.datasets.dataset import DatasetStatus
from domain.deployments.deployment import DeploymentStatus
from gateway.backend import Backend
from gateway.catalog.schemas import GpuTypeAnswer, PoolAnswer, RegionAnswer
from gateway.catalog.service import show_catalog
from gateway.http.access import Caller
from gateway.launch.pages.entries import GONE_DATASET, Entries
from gateway.models.schemas import BaseModelAnswer
from gateway.models.service import base_models
from gateway.schemas import Money
from infrastructure.profiles import dataset_names
from projections.datasets import dataset, ready_datasets

MOST_DATASETS = 200
CHEAP_REGION, CHEAP_TYPE = "local", "cpu"
"""What a form begins with, if it is there."""


@dataclass(frozen=True)
class Offered:
    """A place for a job: GPUs of one type in one region."""

    region: RegionAnswer
    gpu_type: GpuTypeAnswer
    pool: PoolAnswer

    @property
    def rate(self) -> Money:
        """Price of one of them for an hour."""
        return self.gpu_type.rate_per_hour

    @property
    def choice(self) -> str:
        """What a click on it sets."""
        return f"region={self.region.region}&gpu_type={self.gpu_type.gpu_type}"


class Listed(NamedTuple):
    """A dataset that can be trained on."""

    id: UUID
    name: str | None
    examples: int


@dataclass(frozen=True)
class Lists:
    """The catalog, the bases and the account's datasets, as they are now."""

    datasets: list[Listed]
    """The newest of those that can be trained on, and what is chosen of the others."""
    more_datasets: bool
    """Whether there are others."""
    unready: dict[str, DatasetStatus]
    """What is chosen, and cannot be trained on."""
    all_bases: list[BaseModelAnswer]
    gpu_types: list[GpuTypeAnswer]
    regions: list[RegionAnswer]
    places: dict[tuple[str, str], Offered]

    @classmethod
    def now(cls, backend: Backend, caller: Caller, chosen: Sequence[str] = ()) -> Lists:
        """Read the lists. `chosen` are the datasets that the form names."""
        catalog = show_catalog(backend, caller)
        kinds = {each.gpu_type: each for each in catalog.gpu_types}
        regions = {each.region: each for each in catalog.regions}
        places = {
            (pool.region, pool.gpu_type): Offered(regions[pool.region], kinds[pool.gpu_type], pool)
            for pool in catalog.pools
            if pool.capacity and pool.region in regions and pool.gpu_type in kinds
        }
        there = {gpu_type for _, gpu_type in places}
        offered = [each for each in catalog.gpu_types if each.gpu_type in there]
        datasets, more_datasets, unready = _datasets(backend, caller, {*_ids(chosen)})
        return cls(
            datasets=datasets,
            more_datasets=more_datasets,
            unready=unready,
            all_bases=base_models(backend, caller),
            gpu_types=sorted(offered, key=lambda each: (each.rate_per_hour.micros, each.gpu_type)),
            regions=[each for each in catalog.regions if each.gpu_types],
            places=places,
        )

    @property
    def bases(self) -> list[BaseModelAnswer]:
        """Those that are fine-tune-eligible and have an active deployment."""
        active = DeploymentStatus.ACTIVE
        return [each for each in self.all_bases if each.eligible and each.deployment == active]

    def fresh(self) -> Entries:
        """A form that nobody has touched."""
        bases = self.bases
        places = sorted(
            self.places,
            key=lambda place: (
                place != (CHEAP_REGION, CHEAP_TYPE),
                self.places[place].rate.micros,
                place,
            ),
        )
        region, gpu_type = places[0] if places else ("", "")
        return Entries.fresh(bases[0].name if len(bases) == 1 else "", region, gpu_type)

    def gone(self, entries: Entries) -> dict[str, str]:
        """What was chosen and is not offered any more, by field, as a sentence."""
        found = {
            "dataset": self._dataset_gone(entries.dataset),
            "validation_dataset": self._dataset_gone(entries.validation_dataset),
            "base_model": self._base_gone(entries.base_model),
            "region": self._region_gone(entries.region),
            "gpu_type": self._gpu_type_gone(entries.region, entries.gpu_type),
        }
        return {field: sentence for field, sentence in found.items() if sentence is not None}

    def _dataset_gone(self, chosen: str) -> str | None:
        if not chosen or any(str(each.id) == chosen for each in self.datasets):
            return None
        status = self.unready.get(chosen)
        if status is None:
            return GONE_DATASET
        if status == DatasetStatus.VALIDATING:
            return "This dataset is still validating; it can be trained on once it is ready."
        return f"This dataset is {status}; choose one that is ready to train."

    def _base_gone(self, chosen: str) -> str | None:
        if not chosen or any(each.name == chosen for each in self.bases):
            return None
        known = next((each for each in self.all_bases if each.name == chosen), None)
        if known is None or not known.eligible:
            return f"{chosen} is no longer offered for fine-tuning; choose another base."
        return f"{chosen} has no active deployment now; choose another base, or wait for it."

    def _region_gone(self, chosen: str) -> str | None:
        if not chosen or any(each.region == chosen for each in self.regions):
            return None
        return f"{chosen} is no longer offered; choose another region."

    def _gpu_type_gone(self, region: str, chosen: str) -> str | None:
        if not chosen or (region, chosen) in self.places:
            return None
        where = [each for each in self.places.values() if each.gpu_type.gpu_type == chosen]
        if not where:
            return f"{chosen} is no longer offered; choose another GPU type."
        here = next((each.title for each in self.regions if each.region == region), None)
        if here is None:
            return None  # of which the region says enough
        there = ", ".join(each.region.title for each in where)
        return f"{here} has no {where[0].gpu_type.title} now; it is in {there}."


def _ids(texts: Sequence[str]) -> Iterator[UUID]:
    """Those of the texts that are ids."""
    for text in texts:
        with suppress(ValueError):
            yield UUID(text)


def _datasets(
    backend: Backend, caller: Caller, chosen: Collection[UUID]
) -> tuple[list[Listed], bool, dict[str, DatasetStatus]]:
    """Datasets to choose from, whether there are more, and the state of what is chosen in vain."""
    account, unready = caller.account_id, dict[str, DatasetStatus]()
    with backend.pool.connection() as connection:
        rows = ready_datasets(connection, account, MOST_DATASETS + 1)
        more, rows = len(rows) > MOST_DATASETS, rows[:MOST_DATASETS]
        for each in set(chosen) - {row["dataset_id"] for row in rows}:
            found = dataset(connection, account, each)
            if found is None:
                continue
            if found["status"] == DatasetStatus.READY_FOR_TRAINING:
                rows.append(found)
            else:
                unready[str(each)] = DatasetStatus(found["status"])
        names = dataset_names(connection, [row["dataset_id"] for row in rows])
    listed = [
        Listed(row["dataset_id"], names.get(row["dataset_id"]), row["examples"]) for row in rows
    ]
    return listed, more, unready
