"""`ecolink catalog`, which shows and changes GPU types, regions and base models."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.table import Table

from deploy.operator.accounts import console
from deploy.operator.store import Store, open_store
from domain.catalog.catalog import Catalog
from domain.core.errors import Invalid
from domain.core.identity import PLATFORM_ACCOUNT_ID, deployment_id
from domain.core.money import exact_dollars, micros_of
from domain.deployments.deployment import Deployment
from domain.use_cases.catalog import (
    Cataloging,
    Change,
    base_change,
    gpu_type_change,
    imported_base,
    missing_fields,
    region_change,
)
from domain.use_cases.deployments import Deploying
from gateway.cli.terminal import screen
from projections import DEPLOYMENTS
from projections.deployments import adapter_names_on

commands = typer.Typer(
    name="catalog",
    no_args_is_help=True,
    help="Manage GPU types, regions and base models. Changes take effect immediately.",
)
gpu_types = typer.Typer(no_args_is_help=True, help="Manage GPU types and their prices.")
regions = typer.Typer(no_args_is_help=True, help="Manage regions.")
bases = typer.Typer(no_args_is_help=True, help="Manage base models.")
for group, name in ((gpu_types, "gpu-types"), (regions, "regions"), (bases, "bases")):
    commands.add_typer(group, name=name)

GpuTypeName = Annotated[str, typer.Argument(help="Name of the GPU type.", show_default=False)]
RegionName = Annotated[str, typer.Argument(help="Name of the region.", show_default=False)]
BaseName = Annotated[str, typer.Argument(help="Name of the base model.", show_default=False)]


@commands.command("show")
def show() -> None:
    """Show the whole catalog."""
    with open_store() as store:
        catalog = store.catalog
        for table in (_gpu_types(catalog), _regions(catalog), _bases(store, catalog)):
            screen().print(table)
            screen().print()


@gpu_types.command("set")
def set_gpu_type(
    name: GpuTypeName,
    title: Annotated[str | None, typer.Option(help="Display name.")] = None,
    vram_gib: Annotated[float | None, typer.Option(help="Memory of one GPU in GiB.")] = None,
    price: Annotated[
        str | None, typer.Option(help="Price in dollars per hour, such as 0.80.")
    ] = None,
    bf16_tflops: Annotated[
        float | None, typer.Option(help="Peak dense bf16 throughput in TFLOPS.")
    ] = None,
    backing: Annotated[
        Literal["nvidia", "cpu"] | None, typer.Option(help="Hardware that runs the jobs.")
    ] = None,
    device_name: Annotated[
        list[str] | None,
        typer.Option(help="Name of the GPU in nvidia-smi. Repeat the option for several names."),
    ] = None,
    max_per_job: Annotated[int | None, typer.Option(help="Maximum number of GPUs per job.")] = None,
    source: Annotated[str | None, typer.Option(help="Source of the other values.")] = None,
) -> None:
    """Add a GPU type, or change the given fields of an existing one."""
    with open_store() as store:
        fields = _given(
            title=title,
            vram_gib=vram_gib,
            micros_per_hour=None if price is None else micros_of(price, field="price"),
            bf16_tflops=bf16_tflops,
            backing=backing,
            device_names=device_name,
            max_per_job=max_per_job,
            source=source,
        )
        if missing := missing_fields(store.catalog, name, fields):
            options = ", ".join(f"--{each.replace('_', '-')}" for each in missing)
            raise Invalid(f"The GPU type {name} is new. Also pass {options}.")
        Cataloging(store.log).change(gpu_type_change(name, fields))
    console.print(f"New jobs can use the GPU type {name}.")


@gpu_types.command("withdraw")
def withdraw_gpu_type(name: GpuTypeName) -> None:
    """Withdraw a GPU type from new jobs. Running jobs keep their GPUs and their price."""
    _change(lambda catalog: catalog.withdraw_gpu_type(name))
    console.print(f"New jobs can no longer use the GPU type {name}.")


@regions.command("set")
def set_region(
    name: RegionName, title: Annotated[str, typer.Option(help="Display name.", show_default=False)]
) -> None:
    """Add a region, or change its display name. Its capacity does not change."""
    _change(region_change(name, title))
    console.print(f"New jobs can use the region {name}.")


@regions.command("withdraw")
def withdraw_region(name: RegionName) -> None:
    """Withdraw a region from new jobs. Running jobs keep their GPUs."""
    _change(lambda catalog: catalog.withdraw_region(name))
    console.print(f"New jobs can no longer use the region {name}.")


@commands.command("capacity")
def declare_capacity(
    region: RegionName,
    gpu_type: GpuTypeName,
    count: Annotated[int, typer.Argument(help="Number of GPUs.", show_default=False)],
) -> None:
    """Set the number of GPUs of a type in a region.

    In the region `local`, EcoLink never uses more NVIDIA GPUs than this machine has.
    """
    _change(lambda catalog: catalog.declare_capacity(region, gpu_type, count))
    console.print(
        f"{region} now has {count:,} {'GPU' if count == 1 else 'GPUs'} of type {gpu_type}."
    )


@bases.command("set")
def set_base(
    name: BaseName,
    eligible: Annotated[
        bool | None, typer.Option(help="Allow jobs to fine-tune the base model.")
    ] = None,
    repository: Annotated[
        str | None, typer.Option(help="Repository on the Hugging Face Hub.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Source of the base model's description.")
    ] = None,
) -> None:
    """Allow or forbid fine-tuning of a base model. Import the base model first if the catalog does
    not list it.
    """
    with open_store() as store:
        fields = _given(eligible=eligible, repository=repository, source=source)
        changed = Cataloging(store.log).change(base_change(store.log, name, fields))
    console.print(f"Jobs {'can' if changed.bases[name].eligible else 'cannot'} fine-tune {name}.")


@bases.command("withdraw")
def withdraw_base(name: BaseName) -> None:
    """Remove a base model from the catalog. EcoLink keeps its imported files."""
    _change(lambda catalog: catalog.delist_base(name))
    console.print(f"The catalog no longer lists {name}.")


@bases.command("deploy")
def deploy_base(name: BaseName) -> None:
    """Deploy an imported base model, so that users can chat with it and fine-tune it."""
    with open_store() as store:
        deployment = Deploying(store.log).deploy_base(name)
    console.print(f"The deployment of {name} is {deployment.status}.")


@bases.command("undeploy")
def undeploy_base(name: BaseName) -> None:
    """Undeploy a base model. You cannot undeploy a base model while adapters on it are deployed."""
    with open_store() as store:

        def adapters() -> int:
            store.fold(DEPLOYMENTS)
            return len(adapter_names_on(store.connection, name))

        deployment = Deploying(store.log).undeploy_base(name, adapters)
    console.print(f"The deployment of {name} is {deployment.status}.")


def _change(change: Change) -> None:
    with open_store() as store:
        Cataloging(store.log).change(change)


def _given(**fields: object) -> dict[str, object]:
    """Return the fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


def _size(parameters: int) -> str:
    return f"{parameters / 1e6:.0f}M" if parameters < 1e9 else f"{parameters / 1e9:.1f}B"


def _gpu_types(catalog: Catalog) -> Table:
    columns = ("GPU type", "title", "VRAM GiB", "price/h", "bf16 TFLOPS", "max per job")
    places = sorted(catalog.regions)
    table = Table(*columns, *(f"in {place}" for place in places), box=None)
    for kind in sorted(catalog.gpu_types.values(), key=lambda each: each.micros_per_hour):
        table.add_row(
            kind.name,
            kind.title,
            f"{kind.vram_gib:g}",
            exact_dollars(kind.micros_per_hour),
            f"{kind.bf16_tflops:g}",
            str(kind.max_per_job),
            *(str(catalog.regions[place].capacity.get(kind.name, "")) for place in places),
        )
    return table


def _regions(catalog: Catalog) -> Table:
    table = Table("region", "title", box=None)
    for region in sorted(catalog.regions.values(), key=lambda each: each.name):
        table.add_row(region.name, region.title)
    return table


def _bases(store: Store, catalog: Catalog) -> Table:
    figures = ("parameters", "layers", "hidden", "context")
    table = Table("base model", *figures, "eligible", "imported", "deployment", box=None)
    for base in sorted(catalog.bases.values(), key=lambda each: each.shape.parameters):
        shape = base.shape
        table.add_row(
            base.name,
            _size(shape.parameters),
            str(shape.layers),
            str(shape.hidden_size),
            str(shape.context_length),
            "yes" if base.eligible else "no",
            "yes" if imported_base(store.log, base.name) else "no",
            _deployment(store, base.name),
        )
    return table


def _deployment(store: Store, base: str) -> str:
    found = store.log.find(Deployment, deployment_id(PLATFORM_ACCOUNT_ID, base))
    return "" if found is None else found.status
