"""Quotes. A quote validates the user's choices, fits the job into memory and prices it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property, partial
from itertools import product
from typing import TypeVar
from uuid import UUID

from domain.capacity.gpu_pool import GpuPool
from domain.catalog.base_model import BaseModel
from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import GpuType
from domain.catalog.display_names import DisplayNames
from domain.catalog.machine import Conditions, Machine
from domain.core.aggregate import current_cause
from domain.core.errors import (
    DomainError,
    Invalid,
    NotFound,
    SeveralProblems,
    StillCounting,
    WrongState,
)
from domain.core.event_log import EventLog
from domain.core.identity import CATALOG_ID, base_model_id, gpu_pool_id
from domain.datasets.dataset import Dataset, DatasetKind, DatasetStatus
from domain.estimating.estimate import (
    Calibration,
    Estimate,
    Precision,
    Work,
    estimate,
    remaining,
    sequence_length,
)
from domain.estimating.footprint import Layout
from domain.estimating.memory import Fit, decide, fits
from domain.jobs.choices import Choices
from domain.jobs.job import Job
from domain.training.hyperparameters import ALL_LINEAR, DPO, Hyperparameters
from domain.training.start import JobOfModel, Start, inherited, is_fine_tuned, split_checkpoint
from domain.training.token_lengths import TokenLengths
from domain.training.training_plan import TrainingPlan, ValidationFile
from domain.training.truncation import Truncation, require_trainable
from domain.use_cases.deployments import checkpoint_of, why_not_served

T = TypeVar("T")

Calibrations = Callable[[str, str, Precision, int], Calibration]
"""A function of base model, GPU type, precision and GPU count that returns a calibration."""


WantCount = Callable[[UUID, str], str]
"""A function that speeds up a token count. It returns a sentence on when to try again."""


@dataclass(frozen=True)
class MachineUse:
    """The other work on the machines of CPU-backed pools."""

    load_of: Callable[[str], float | None] = lambda _host: None
    """Returns the load average of a host, by name; None if it is unknown."""
    active_jobs: Callable[[str, str, UUID | None], Mapping[int, int]] = lambda _a, _b, _c: {}
    """Returns the numbers of running and queued jobs by their GPUs.

    The arguments are a region, a GPU type, and a job that does not count.
    """
    now: Callable[[], datetime] = lambda: current_cause().now


@dataclass(frozen=True)
class Quote:
    """The plan, memory fit and estimate for a user's choices."""

    plan: TrainingPlan
    fit: Fit
    estimate: Estimate
    alternatives: frozenset[str]
    """GPU types on which the job fits, including the chosen one."""
    examples: int
    """Number of chats or preference pairs of the dataset."""


@dataclass(frozen=True)
class Draft:
    """The choices in an unfinished form. Invalid and missing values are None."""

    dataset_id: UUID | None = None
    validation_dataset_id: UUID | None = None
    base_model: str | None = None
    region: str | None = None
    gpu_type: str | None = None
    gpu_count: int | None = None


class Quoting:
    """Creates quotes from the event log. It caches the catalog and pools: one for each request."""

    def __init__(
        self,
        log: EventLog,
        calibrations: Calibrations,
        machine_use: MachineUse = MachineUse(),
        job_of_model: JobOfModel = lambda _account_id, _model: None,
        want_count: WantCount = lambda _dataset_id, _base_model: "Try again in a moment.",
    ) -> None:
        self._log = log
        self._machine_use = machine_use
        self._calibrations = calibrations
        self._job_of_model = job_of_model
        self._want_count = want_count
        self._pools: dict[tuple[str, str], GpuPool | None] = {}

    @property
    def display_names(self) -> DisplayNames:
        """Display names of GPU types and regions."""
        return self._catalog.display_names

    def problems(self, account_id: UUID, draft: Draft) -> list[DomainError]:
        """Return an error for each problem with the fields of a draft."""
        problems: list[DomainError] = []
        files = {"dataset": draft.dataset_id, "validation_dataset": draft.validation_dataset_id}
        for field, dataset_id in files.items():
            if dataset_id is not None:
                _attempt(problems, partial(self._dataset, account_id, dataset_id, field))
        if (base_model := draft.base_model) is not None:
            _attempt(problems, lambda: self.base_of(account_id, base_model))
        self._check_gpus(problems, draft.region, draft.gpu_type, draft.gpu_count)
        return problems

    def quote(self, account_id: UUID, choices: Choices, *, resumed: Job | None = None) -> Quote:
        """Validate the choices, choose the precision and estimate the whole job.

        A `resumed` job keeps its precision, because its checkpoints require it. Raise a
        DomainError, or SeveralProblems if several values are invalid.
        """
        approved = resumed and resumed.plan
        problems: list[DomainError] = []
        if approved is None:
            dataset = _attempt(problems, lambda: self._trainable(account_id, choices))
        else:
            dataset = _attempt(problems, lambda: self._dataset(account_id, choices.dataset_id))
        validation = _attempt(problems, lambda: self._validation(account_id, choices, dataset))
        start = approved.start if approved else None
        if approved is not None:
            # An approved job can continue even if its base model is no longer served.
            base = _attempt(problems, lambda: self._base(approved.base_model))
        elif is_fine_tuned(choices.base_model):
            continued = _attempt(problems, lambda: self._continued(account_id, choices))
            start, base, choices = continued or (None, None, choices)
        else:
            base = _attempt(problems, lambda: self._served_base(choices.base_model))
            choices = self.resolved(account_id, choices) if base else choices
        self._check_gpus(problems, choices.region, choices.gpu_type, choices.gpu_count)
        if problems:
            raise problems[0] if len(problems) == 1 else SeveralProblems(problems)
        assert dataset is not None
        assert base is not None
        quote = self._price(dataset, validation, base, choices, resumed)
        return replace(quote, plan=quote.plan.model_copy(update={"start": start}))

    def resolved(self, account_id: UUID, choices: Choices) -> Choices:
        """Return the choices with all target modules and the shape of a continued adapter."""
        fields, name = choices.hyperparameters, choices.base_model
        if is_fine_tuned(name):
            fields = self.continued_shape(fields, self.parent(account_id, name).plan, name)
        elif ALL_LINEAR in fields.target_modules:
            fields = fields.with_modules_of(self._served_base(name).revision.shape.linears)
        return replace(choices, hyperparameters=fields)

    def continued_shape(
        self, own: Hyperparameters, plan: TrainingPlan, name: str
    ) -> Hyperparameters:
        """Return hyperparameters with the shape of the adapter `name`, which has that of `plan`.

        Raise Invalid if `own` sets another shape, also if it has `all-linear` and the adapter
        lacks a linear layer of the base model.
        """
        if ALL_LINEAR in own.target_modules:
            own = own.with_modules_of(self._base(plan.base_model).revision.shape.linears)
        return inherited(own, plan.lora, name)

    def base_of(self, account_id: UUID, name: str) -> BaseModel:
        """Return the served base model with a name, or that of a fine-tuned model with the name."""
        if not is_fine_tuned(name):
            return self._served_base(name)
        plan = self.parent(account_id, name).plan
        base = self._served_base(plan.base_model)
        if base.manifest_sha256 != plan.base_manifest_sha256:
            raise WrongState(
                f"{name} was trained on another import of {base.name}. Choose {base.name} to start "
                "with a new adapter.",
                field="base_model",
            )
        return base

    def parent(self, account_id: UUID, name: str) -> Job:
        """Return the job that made a fine-tuned model or checkpoint. Raise NotFound without one."""
        model, _ = split_checkpoint(name)
        job_id = self._job_of_model(account_id, model)
        job = None if job_id is None else self._log.find(Job, job_id)
        if job is None or job.account_id != account_id or job.model_name != model:
            raise NotFound(
                f"Unknown model {name!r}. See `ecolink models list`.", field="base_model"
            )
        return job

    def _continued(self, account_id: UUID, choices: Choices) -> tuple[Start, BaseModel, Choices]:
        start = self._start(account_id, choices.base_model)
        base = self.base_of(account_id, choices.base_model)
        return start, base, self.resolved(account_id, choices)

    def _start(self, account_id: UUID, name: str) -> Start:
        """Return the adapter with a name. Raise WrongState if its job still changes or lost it."""
        job, (_, step) = self.parent(account_id, name), split_checkpoint(name)
        if step is None:
            if job.model is None:
                raise WrongState(f"{name} was deleted. Choose another model.", field="base_model")
            ref, sha256 = job.model.adapter_ref, job.model.manifest_sha256
        else:
            if not job.status.is_final:
                raise WrongState(
                    f"The job of {name} is {job.status} and may still delete checkpoints. Wait "
                    "until it has ended, or cancel it.",
                    field="base_model",
                )
            saved = checkpoint_of(job, step)
            ref, sha256 = saved.ref, saved.manifest_sha256
        return Start(model=name, job_id=job.id, step=step, ref=ref, manifest_sha256=sha256)

    def _price(
        self,
        dataset: Dataset,
        validation: Dataset | None,
        base: BaseModel,
        choices: Choices,
        resumed: Job | None,
    ) -> Quote:
        approved = resumed and resumed.plan
        catalog, fields, count = self._catalog, choices.hyperparameters, choices.gpu_count
        gpu = self._known(choices.region, catalog.gpu_type(choices.gpu_type))
        if approved is not None:
            gpu = gpu.model_copy(update={"dtype": approved.dtype})
        others = self._others(catalog, choices)
        work = _work(dataset, validation, base, fields, approved, self._want_count)
        if approved is None:
            _require_trainable(work)
        layout = Layout(work.shape, fields, work.sequence_length, count)
        fit = _as_approved(decide(layout, gpu, others), approved)
        rate = catalog.rate_micros_per_hour(gpu.name, count)
        calibration = self._calibrations(base.name, gpu.name, fit.precision, count).model_copy(
            update={"conditions": self._conditions(choices, fit, resumed and resumed.id)}
        )
        return Quote(
            plan=TrainingPlan(
                dataset_id=dataset.id,
                dataset_ref=dataset.ref,
                dataset_sha256=dataset.sha256,
                validation=validation
                and ValidationFile(
                    dataset_id=validation.id, ref=validation.ref, sha256=validation.sha256
                ),
                base_model=base.name,
                base_ref=base.revision.ref,
                base_manifest_sha256=base.manifest_sha256,
                region=choices.region,
                gpu_type=gpu.name,
                gpu_count=count,
                rate_micros_per_hour=rate,
                catalog_version=catalog.version_text,
                hyperparameters=fields.stored,
                precision=fit.precision,
                gradient_checkpointing=fit.gradient_checkpointing,
                dtype=fit.dtype,
                sequence_length=work.sequence_length,
                batch_tokens=fit.batch_tokens,
                required_bytes=fit.required_bytes,
                truncation=Truncation.of(work.lengths, work.sequence_length, work.sequences),
            ),
            fit=fit,
            estimate=estimate(work, gpu, count, fit, calibration, rate),
            alternatives=frozenset(each.name for each in (gpu, *others) if fits(layout, each)),
            examples=dataset.examples,
        )

    def _others(self, catalog: Catalog, choices: Choices) -> list[GpuType]:
        """Return the GPU types of which at least one region has enough."""
        return [
            self._known(regions[0], each)
            for each in catalog.gpu_types.values()
            if choices.gpu_count <= each.max_per_job
            and (
                regions := [
                    region
                    for region in catalog.regions
                    if self._capacity(region, each.name) >= choices.gpu_count
                ]
            )
        ]

    def rest_of(self, job: Job, gpu_count: int | None = None) -> Quote:
        """Return a quote for a job's remaining work, at current prices, maybe on other GPUs."""
        plan = job.plan
        choices = Choices(
            plan.dataset_id,
            plan.start.model if plan.start else plan.base_model,
            plan.region,
            plan.gpu_type,
            job.gpu_count if gpu_count is None else gpu_count,
            plan.lora,
            plan.validation.dataset_id if plan.validation else None,
        )
        quote = self.quote(job.account_id, choices, resumed=job)
        total_steps = job.total_steps or quote.estimate.total_steps
        rest = remaining(
            quote.estimate,
            step=job.step,
            total_steps=total_steps,
            earliest_stop=plan.lora.earliest_stop(total_steps, after=job.step),
            trained=job.trained,
            rate_micros_per_hour=quote.plan.rate_micros_per_hour,
        )
        if quote.plan.gpu_count == job.gpu_count:
            rest = rest.measured(job.measured.steps, job.measured.seconds)
        return replace(quote, estimate=rest)

    def _dataset(self, account_id: UUID, dataset_id: UUID, field: str = "dataset") -> Dataset:
        dataset = self._log.find(Dataset, dataset_id)
        if (
            dataset is None
            or dataset.account_id != account_id
            or dataset.status is DatasetStatus.DELETED
        ):
            raise NotFound(
                f"Unknown dataset {dataset_id}. See `ecolink datasets list`.", field=field
            )
        if dataset.status is not DatasetStatus.READY_FOR_TRAINING:
            raise WrongState(
                f"The {field.replace('_', ' ')} is {dataset.status}. Choose a dataset that is "
                "ready_for_training.",
                field=field,
            )
        return dataset

    def _trainable(self, account_id: UUID, choices: Choices) -> Dataset:
        dataset = self._dataset(account_id, choices.dataset_id)
        has_validation = choices.validation_dataset_id is not None
        obstacle = dataset.trainability.obstacle(has_validation=has_validation)
        if obstacle is not None:
            raise Invalid(obstacle, field="dataset")
        _require_method(dataset, choices.hyperparameters, "dataset")
        return dataset

    def _validation(
        self, account_id: UUID, choices: Choices, dataset: Dataset | None
    ) -> Dataset | None:
        """Return the validation dataset, if any. Raise Invalid if it is the training dataset.

        The loss on examples that the model has memorized says nothing about other examples.
        """
        if (validation_id := choices.validation_dataset_id) is None:
            return None
        found = self._dataset(account_id, validation_id, "validation_dataset")
        if (obstacle := found.trainability.obstacle(has_validation=True)) is not None:
            raise Invalid(obstacle, field="validation_dataset")
        _require_method(found, choices.hyperparameters, "validation_dataset")
        if validation_id == choices.dataset_id or (dataset and found.sha256 == dataset.sha256):
            raise Invalid(
                "The validation dataset is also the training dataset. Choose another one, or "
                "choose none to hold out a part of the training dataset.",
                field="validation_dataset",
            )
        return found

    def _served_base(self, name: str) -> BaseModel:
        base = self._base(name)
        if reason := why_not_served(self._log, name, base.manifest_sha256):
            raise WrongState(
                f"{reason} You can also choose another base model.", field="base_model"
            )
        return base

    def _base(self, name: str) -> BaseModel:
        base = self._log.find(BaseModel, base_model_id(name))
        if base is None or base.deleted:
            raise Invalid(
                f"Unknown base model {name!r}. See `ecolink models list`.", field="base_model"
            )
        if not self._catalog.is_eligible(name):
            raise Invalid(
                f"{name} is not available for fine-tuning. See `ecolink models list`.",
                field="base_model",
            )
        return base

    def _check_gpus(
        self,
        problems: list[DomainError],
        region: str | None,
        gpu_type: str | None,
        gpu_count: int | None,
    ) -> None:
        """Add an error if the region lacks the GPU type or has too few; None causes no error."""
        catalog = self._catalog
        kind = place = None
        if gpu_type is not None:
            kind = _attempt(problems, lambda: catalog.gpu_type(gpu_type))
        if region is not None:
            place = _attempt(problems, lambda: catalog.region(region))
        if kind is None or place is None or gpu_count is None:
            return
        capacity = self._capacity(place.name, kind.name)
        if capacity == 0:
            problems.append(
                Invalid(
                    f"{place.title} has no {kind.title}. See the catalog for available GPUs.",
                    field="gpu_type",
                )
            )
        elif not 1 <= gpu_count <= (most := min(capacity, kind.max_per_job)):
            problems.append(
                Invalid(
                    f"A job cannot use {gpu_count} GPUs of type {kind.title} in {place.title}. "
                    f"Choose 1 to {most}.",
                    field="gpu_count",
                )
            )

    def _capacity(self, region: str, gpu_type: str) -> int:
        pool = self._pool(region, gpu_type)
        return 0 if pool is None else pool.capacity

    def _pool(self, region: str, gpu_type: str) -> GpuPool | None:
        place = region, gpu_type
        if place not in self._pools:
            self._pools[place] = self._log.find(GpuPool, gpu_pool_id(*place))
        return self._pools[place]

    def _machine(self, region: str, gpu_type: str) -> Machine | None:
        pool = self._pool(region, gpu_type)
        return None if pool is None else pool.machine

    def _conditions(self, choices: Choices, fit: Fit, job_id: UUID | None) -> Conditions | None:
        """Return the conditions of a CPU-backed type; None for a GPU, or if they are unknown.

        `job_id` is the job to resume, which does not slow down itself.
        """
        place = choices.region, choices.gpu_type
        if (machine := self._machine(*place)) is None:
            return None
        pools = [
            pool
            for each in product(self._catalog.known_regions, self._catalog.known_gpu_types)
            if (pool := self._pool(*each)) and pool.machine and pool.machine.host == machine.host
        ]
        use, jobs = self._machine_use, 0
        if (load := use.load_of(machine.host)) is not None:
            now = use.now()
            load = max(0.0, load - machine.cores * sum(each.mean_running(now) for each in pools))
        for pool in pools:
            taken = choices.gpu_count if (pool.region, pool.gpu_type) == place else 0
            active = use.active_jobs(pool.region, pool.gpu_type, job_id)
            jobs += pool.most_beside(taken, active)
        return Conditions(
            cores=machine.cores, tflops=machine.tflops.get(fit.dtype), load=load, jobs=jobs
        )

    def _known(self, region: str, gpu: GpuType) -> GpuType:
        machine = self._machine(region, gpu.name)
        if machine is None or gpu.dtype is not None:
            return gpu
        return gpu.model_copy(update={"dtype": machine.dtype})

    @cached_property
    def _catalog(self) -> Catalog:
        return self._log.load(Catalog, CATALOG_ID)


def _attempt(problems: list[DomainError], find: Callable[[], T]) -> T | None:
    """Return the result of `find`. If it raises a DomainError, add the error and return None."""
    try:
        return find()
    except DomainError as problem:
        problems.append(problem)
        return None


def _as_approved(fit: Fit, approved: TrainingPlan | None) -> Fit:
    if approved is None:
        return fit
    kept = {"precision", "gradient_checkpointing", "batch_tokens"}
    return fit.model_copy(update={name: getattr(approved, name) for name in kept})


def _require_method(dataset: Dataset, fields: Hyperparameters, field: str) -> None:
    """Raise Invalid if the method of a job cannot train or evaluate on a dataset."""
    name = field.replace("_", " ")
    if dataset.kind is DatasetKind.PREFERENCES and fields.method != DPO:
        raise Invalid(
            f"The {name} has preference pairs, but the method is {fields.method}, which needs "
            "chats. Set the method to dpo, or choose a dataset of chats.",
            field=field,
        )
    if dataset.kind is DatasetKind.CHATS and fields.method == DPO:
        raise Invalid(
            f"The {name} has chats, but the method is dpo, which needs preference pairs. Set the "
            "method to supervised, or choose a dataset of preference pairs.",
            field=field,
        )


def _work(
    dataset: Dataset,
    validation: Dataset | None,
    base: BaseModel,
    fields: Hyperparameters,
    approved: TrainingPlan | None,
    want: WantCount,
) -> Work:
    """Return the work of a job. Raise a DomainError if its tokens are not counted yet."""
    sha256 = approved.base_manifest_sha256 if approved else base.manifest_sha256
    shape, lengths = base.revision.shape, _lengths(dataset, base.name, sha256, want)
    own = validation and _lengths(validation, base.name, sha256, want, "validation_dataset")
    length = sequence_length(fields, shape, *filter(None, (lengths, own)))
    return Work(
        shape,
        lengths,
        fields,
        length,
        own,
        approved.gpu_count if approved else None,
        conversations=dataset.examples,
        validation_conversations=validation and validation.examples,
    )


def _require_trainable(work: Work) -> None:
    """Raise Invalid if truncation leaves too few examples to train on and to hold out."""
    limit, context = work.sequence_length, work.shape.context_length
    if work.validation is None:
        require_trainable(work.lengths, limit, context, 2)
    else:
        require_trainable(work.lengths, limit, context, 1)
        require_trainable(work.validation, limit, context, 1, "validation dataset")


def _lengths(
    dataset: Dataset, base_model: str, sha256: str, want: WantCount, field: str = "dataset"
) -> TokenLengths:
    name = field.replace("_", " ")
    if (reason := dataset.why_uncountable(base_model, sha256)) is not None:
        raise Invalid(
            f"{base_model} cannot count the tokens of this {name}. {reason} Choose another base "
            "model or dataset.",
            field=field,
        )
    if (lengths := dataset.lengths.get((base_model, sha256))) is None:
        raise StillCounting(
            f"EcoLink is still counting the {name}'s tokens for {base_model}. "
            f"{want(dataset.id, base_model)}",
            field=field,
        )
    return lengths
