"""The choices that the wizard currently offers, and choices that are no longer available."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from domain.datasets.dataset import DatasetKind, DatasetStatus
from domain.deployments.deployment import DeploymentStatus
from domain.training.integrations import Tracker
from domain.training.start import is_fine_tuned, split_checkpoint
from gateway.backend import Backend
from gateway.catalog.schemas import GpuTypeResponse, PoolResponse, RegionResponse
from gateway.catalog.service import show_catalog
from gateway.http.access import Caller
from gateway.jobs.launch.integrations import has_receiver, receiver
from gateway.jobs.pages.wizard.entries import GONE_DATASET, Entries
from gateway.models.schemas import BaseModelResponse, ModelResponse
from gateway.models.service import list_models
from gateway.schemas import Money
from infrastructure.accounts.profiles import dataset_names
from infrastructure.base_models.importing import is_importing
from projections.datasets import dataset, ready_datasets

MOST_DATASETS = 200
MOST_MODELS = 50
FIRST_CHOICE = ("local", "cpu")
"""Default region and GPU type of a new form. If unavailable, the form gets the cheapest."""


@dataclass(frozen=True)
class Offer:
    """GPUs of one type in one region, as the wizard offers them."""

    region: RegionResponse
    gpu_type: GpuTypeResponse
    pool: PoolResponse

    @property
    def rate(self) -> Money:
        return self.gpu_type.rate_per_hour

    @property
    def choice(self) -> str:
        """Query string with the entries that select this offer."""
        return f"region={self.region.region}&gpu_type={self.gpu_type.gpu_type}"


class ListedDataset(NamedTuple):
    id: UUID
    name: str | None
    examples: int
    kind: DatasetKind
    uploaded_at: datetime

    @property
    def counted(self) -> str:
        """Number of examples, in words."""
        pairs = self.kind is DatasetKind.PREFERENCES
        what = "preference pair" if pairs else "example"
        return f"{self.examples:,} {what}{'' if self.examples == 1 else 's'}"


@dataclass(frozen=True)
class Lists:
    datasets: list[ListedDataset]
    """The newest valid datasets, and older ones that the form selects."""
    more_datasets: bool
    unready: dict[str, DatasetStatus]
    """Status of each selected dataset that is not valid."""
    all_bases: list[BaseModelResponse]
    importing: bool
    """True if there is no base model to choose yet, and EcoLink imports one."""
    models: list[ModelResponse]
    """The user's newest models, which a job can continue."""
    gpu_types: list[GpuTypeResponse]
    regions: list[RegionResponse]
    places: dict[tuple[str, str], Offer]
    """The offers by region and GPU type."""
    trackers: list[Tracker]
    """Trackers to which the account has a connection."""

    @classmethod
    def now(cls, backend: Backend, caller: Caller, named: Sequence[str] = ()) -> Lists:
        """Return the current lists. `named` has the IDs of the datasets that the form selects."""
        catalog = show_catalog(backend, caller)
        kinds = {each.gpu_type: each for each in catalog.gpu_types}
        regions = {each.region: each for each in catalog.regions}
        places = {
            (pool.region, pool.gpu_type): Offer(regions[pool.region], kinds[pool.gpu_type], pool)
            for pool in catalog.pools
            if pool.capacity and pool.region in regions and pool.gpu_type in kinds
        }
        offered = [kinds[name] for name in {gpu_type for _, gpu_type in places}]
        offered_models = list_models(backend, caller, limit=MOST_MODELS)
        datasets, more_datasets, unready = _datasets(backend, caller, {*_ids(named)})
        return cls(
            datasets=datasets,
            more_datasets=more_datasets,
            unready=unready,
            all_bases=offered_models.base_models,
            importing=not offered_models.base_models and _is_importing(backend),
            models=offered_models.models,
            gpu_types=sorted(offered, key=lambda each: (each.rate_per_hour.micros, each.gpu_type)),
            regions=[each for each in catalog.regions if each.gpu_types],
            places=places,
            trackers=receiver().connected(backend, caller),
        )

    def dataset_options(self) -> list[tuple[str, str]]:
        """The ID and the text of each dataset. Datasets with the same name have their time, too."""
        names = Counter(each.name or each.id for each in self.datasets)
        return [
            (
                str(each.id),
                f"{each.name or each.id} — {each.counted}"
                + (
                    f", {each.uploaded_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
                    if names[each.name or each.id] > 1
                    else ""
                ),
            )
            for each in self.datasets
        ]

    def dataset(self, chosen: str) -> ListedDataset | None:
        """Return the listed dataset with an ID, or None."""
        return next((each for each in self.datasets if str(each.id) == chosen), None)

    @property
    def bases(self) -> list[BaseModelResponse]:
        """Base models that are eligible for fine-tuning and have an active deployment."""
        active = DeploymentStatus.ACTIVE
        return [each for each in self.all_bases if each.eligible and each.deployment == active]

    @property
    def coming(self) -> str | None:
        """The name of an eligible base model that is being deployed, or None."""
        deploying = DeploymentStatus.DEPLOYING
        bases = self.all_bases
        return next((x.name for x in bases if x.eligible and x.deployment == deploying), None)

    def base_of(self, name: str) -> str | None:
        """Return the name of the base model with a name, or of the listed model with the name."""
        if not is_fine_tuned(name):
            return name
        model, _ = split_checkpoint(name)
        return next((each.base_model for each in self.models if each.model == model), None)

    def fresh(self) -> Entries:
        bases, places = self.bases, self.places
        region, gpu_type = min(
            places,
            key=lambda place: (place != FIRST_CHOICE, places[place].rate.micros, place),
            default=("", ""),
        )
        return Entries.fresh(bases[0].name if len(bases) == 1 else "", region, gpu_type)

    def gone(self, entries: Entries) -> dict[str, str]:
        """Return an error message for each unavailable choice, by field."""
        found = {
            "dataset": self._dataset_gone(entries.dataset),
            "validation_dataset": self._dataset_gone(entries.validation_dataset),
            "base_model": self._base_gone(entries.base_model),
            "region": self._region_gone(entries.region),
            "gpu_type": self._gpu_type_gone(entries.region, entries.gpu_type),
        }
        return {field: sentence for field, sentence in found.items() if sentence is not None}

    def unconnected(self, entries: Entries) -> dict[str, str]:
        """Return an error message for each tracker to which the account has no connection."""
        fix = "Set it up on the page Trackers, or clear this field."
        if not has_receiver():
            fix = "This installation has no trackers. Clear this field."
        return {
            tracker: f"Your account has no connection to {tracker.product}. {fix}"
            for tracker in entries.tracked
            if tracker not in self.trackers
        }

    def _dataset_gone(self, chosen: str) -> str | None:
        if not chosen or any(str(each.id) == chosen for each in self.datasets):
            return None
        status = self.unready.get(chosen)
        if status is None:
            return GONE_DATASET
        if status is DatasetStatus.VALIDATING:
            return "EcoLink is still validating this dataset. Wait, or choose another one."
        return f"This dataset is {status}. Choose one that is ready to train."

    def _base_gone(self, chosen: str) -> str | None:
        if is_fine_tuned(chosen):
            return None  # the quote has the reason
        if not chosen or any(each.name == chosen for each in self.bases):
            return None
        if any(each.name == chosen and each.eligible for each in self.all_bases):
            return (
                f"{chosen} has no active deployment. Choose another base model, or wait "
                f"until {chosen} is deployed."
            )
        return f"{chosen} is not available for fine-tuning. Choose another base model."

    def _region_gone(self, chosen: str) -> str | None:
        if not chosen or any(each.region == chosen for each in self.regions):
            return None
        return f"Region {chosen} is not available. Choose another region."

    def _gpu_type_gone(self, region: str, chosen: str) -> str | None:
        if not chosen or (region, chosen) in self.places:
            return None
        where = [each for each in self.places.values() if each.gpu_type.gpu_type == chosen]
        if not where:
            return f"GPU type {chosen} is not available. Choose another GPU type."
        here = next((each.title for each in self.regions if each.region == region), None)
        if here is None:
            return None  # the error message of the region is sufficient
        there = ", ".join(each.region.title for each in where)
        return f"{here} has no {where[0].gpu_type.title}. Choose one of these regions: {there}."


def _ids(texts: Sequence[str]) -> Iterator[UUID]:
    for text in texts:
        with suppress(ValueError):
            yield UUID(text)


def _is_importing(backend: Backend) -> bool:
    with backend.pool.connection() as connection:
        return is_importing(connection)


def _datasets(
    backend: Backend, caller: Caller, named: Collection[UUID]
) -> tuple[list[ListedDataset], bool, dict[str, DatasetStatus]]:
    """Return the datasets, True if there are more, and the status of selected invalid ones."""
    account, unready = caller.account_id, dict[str, DatasetStatus]()
    with backend.pool.connection() as connection:
        rows = ready_datasets(connection, account, MOST_DATASETS + 1)
        more, rows = len(rows) > MOST_DATASETS, rows[:MOST_DATASETS]
        for each in set(named) - {row["dataset_id"] for row in rows}:
            found = dataset(connection, account, each)
            if found is None:
                continue
            if found["status"] == DatasetStatus.READY_FOR_TRAINING:
                rows.append(found)
            else:
                unready[str(each)] = DatasetStatus(found["status"])
        names = dataset_names(connection, [row["dataset_id"] for row in rows])
    listed = [
        ListedDataset(
            row["dataset_id"],
            names.get(row["dataset_id"]),
            row["examples"],
            DatasetKind(row["kind"]),
            row["uploaded_at"],
        )
        for row in rows
    ]
    return listed, more, unready
