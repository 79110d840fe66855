"""The preview of a change of the catalog: the new values, and who is affected."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

from domain.capacity.availability import PoolLoad
from domain.catalog.catalog import Catalog
from domain.core.aggregate import because
from domain.core.errors import VersionConflict
from domain.use_cases.catalog import Cataloging
from gateway.backend import Backend
from gateway.catalog.availability import pool_loads
from gateway.http.access import Caller
from gateway.ops.catalog.differences import Difference, differences
from gateway.ops.catalog.effects import NO_JOBS, Effect, Jobs, effects_of_capacity, effects_of_entry
from gateway.ops.catalog.form import CatalogForm, Kind
from infrastructure.accounts.profiles import account_names
from projections.deployments import adapter_names_on
from projections.job_detail import Choice, unfinished_by_account
from projections.job_requests import open_requests_by_account


@dataclass(frozen=True)
class AffectedAccount:
    """An account with its unfinished jobs that use the entry."""

    id: UUID
    name: str | None
    jobs: Jobs


@dataclass(frozen=True)
class Preview:
    """A change of the catalog that is not saved."""

    form: CatalogForm
    title: str
    version: int
    """Version of the catalog that the change applies to."""
    stale: bool
    """True if the catalog changed after the operator saw it."""
    differences: list[Difference]
    effects: list[Effect]
    accounts: list[AffectedAccount]


def preview(backend: Backend, caller: Caller, form: CatalogForm) -> Preview:
    """Return what a change would do. Nothing is saved. Raise a DomainError if it is invalid."""
    cataloging = Cataloging(backend.log)
    before = cataloging.catalog
    with because(caller.cause(backend)):
        after = cataloging.preview(form.change(backend.log))
    loads = {(each.region, each.gpu_type): each for each in pool_loads(backend)}
    load = loads.get((form.name, form.gpu_type))
    changed = differences(form, before, after, load.capacity if load else 0)
    accounts = _accounts(backend, form)
    return Preview(
        form=form,
        title=_title(form, before),
        version=before.version,
        stale=form.version != before.version,
        differences=changed,
        effects=_effects(backend, form, changed, accounts, load) if changed else [],
        accounts=accounts if changed else [],
    )


def save(backend: Backend, caller: Caller, form: CatalogForm) -> int | Preview:
    """Save a change, and return the new version of the catalog.

    If the catalog has another version than the operator saw, save nothing and return a new preview.
    Raise a DomainError if the change is invalid.
    """
    try:
        with because(caller.cause(backend)):
            change = form.change(backend.log)
            return Cataloging(backend.log).change(change, form.version).version
    except VersionConflict:
        return preview(backend, caller, form)


def _accounts(backend: Backend, form: CatalogForm) -> list[AffectedAccount]:
    with backend.pool.connection() as connection:
        rows = unfinished_by_account(connection, _choice(form))
        requests = open_requests_by_account(connection, _choice(form))
        names = account_names(connection)
    counts: dict[UUID, dict[str, int]] = {}
    for row in (*rows, *requests):
        counts.setdefault(row.pop("account_id"), {}).update(row)
    return [
        AffectedAccount(id, names.get(id), replace(NO_JOBS, **found))
        for id, found in counts.items()
    ]


def _effects(
    backend: Backend,
    form: CatalogForm,
    changed: list[Difference],
    accounts: list[AffectedAccount],
    load: PoolLoad | None,
) -> list[Effect]:
    jobs = sum((each.jobs for each in accounts), NO_JOBS)
    if form.kind is Kind.CAPACITY and form.count is not None:
        return effects_of_capacity(load, form.count, jobs)
    with backend.pool.connection() as connection:
        adapters = adapter_names_on(connection, form.name)
    return effects_of_entry(form, {each.field for each in changed}, jobs, len(adapters))


def _choice(form: CatalogForm) -> Choice:
    match form.kind:
        case Kind.GPU_TYPE | Kind.GPU_TYPE_WITHDRAWAL:
            return Choice(gpu_type=form.name)
        case Kind.REGION | Kind.REGION_WITHDRAWAL:
            return Choice(region=form.name)
        case Kind.CAPACITY:
            return Choice(region=form.name, gpu_type=form.gpu_type)
        case Kind.BASE | Kind.BASE_WITHDRAWAL:
            return Choice(base_model=form.name)


def _title(form: CatalogForm, before: Catalog) -> str:
    match form.kind:
        case Kind.GPU_TYPE:
            return f"{_verb(form.name in before.gpu_types)} the GPU type {form.name}"
        case Kind.GPU_TYPE_WITHDRAWAL:
            return f"Withdraw the GPU type {form.name}"
        case Kind.REGION:
            return f"{_verb(form.name in before.regions)} the region {form.name}"
        case Kind.REGION_WITHDRAWAL:
            return f"Withdraw the region {form.name}"
        case Kind.CAPACITY:
            return f"Change the number of {form.gpu_type} in {form.name}"
        case Kind.BASE:
            return f"{_verb(form.name in before.bases)} the base model {form.name}"
        case Kind.BASE_WITHDRAWAL:
            return f"Withdraw the base model {form.name}"


def _verb(known: bool) -> str:
    return "Change" if known else "Add"
