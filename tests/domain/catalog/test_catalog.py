from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest

from domain.catalog.catalog import Catalog
from domain.catalog.catalog_entries import CatalogBase, Offers, Region, shipped_offers
from domain.core.errors import Invalid, NotFound
from domain.estimating.footprint import Layout
from domain.estimating.memory import decide
from domain.training.hyperparameters import Hyperparameters
from domain.training.precision import Precision
from tests.builders.examples import happened
from tests.builders.scenario import fact, when
from tests.builders.shapes import gpu
from tests.builders.tiny_model import TINY_SHAPE

CPU = gpu(16.0, name="cpu", title="CPU", micros_per_hour=600_000, backing="cpu", max_per_job=2)
L4 = CPU.model_copy(
    update={"name": "l4", "title": "L4", "backing": "nvidia", "device_names": ("NVIDIA L4",)}
)
LOCAL = Region(name="local", title="This machine", capacity={"cpu": 2})
TINY = CatalogBase(
    name="tiny", repository="someone/tiny", shape=TINY_SHAPE, eligible=True, source="a test"
)
HEADLESS = TINY_SHAPE.model_copy(update={"kv_heads": 0})
OFFERS = Offers(gpu_types=(CPU, L4), regions=(LOCAL,), bases=(TINY,))


def catalog(offers: Offers = OFFERS) -> Catalog:
    opened = Catalog.open()
    opened.seed(offers)
    opened.collect_events()
    return opened


def test_a_new_catalog_is_seeded_with_all_that_is_offered() -> None:
    given = Catalog.open()
    given.seed(OFFERS)
    assert happened(given) == [
        "CatalogOpened",
        "GpuTypeOffered",
        "GpuTypeOffered",
        "RegionOffered",
        "BaseModelListed",
    ]
    assert given.gpu_types == {"cpu": CPU, "l4": L4}
    assert given.regions == {"local": LOCAL}
    assert given.bases == {"tiny": TINY}
    given.seed(OFFERS)
    assert happened(given) == []


def test_a_seed_keeps_what_the_operator_changed_and_withdrew() -> None:
    given = catalog()
    given.offer_gpu_type(CPU.model_copy(update={"micros_per_hour": 700_000}))
    given.withdraw_gpu_type("l4")
    given.declare_capacity("local", "cpu", 1)
    given.delist_base("tiny")
    given.collect_events()
    given.seed(OFFERS)
    assert happened(given) == []
    assert given.rate_micros_per_hour("cpu", 2) == 1_400_000
    assert given.region("local").capacity == {"cpu": 1}
    given.withdraw_region("local")
    given.collect_events()
    given.seed(OFFERS)
    assert happened(given) == []


def test_a_seed_adds_what_a_later_version_ships() -> None:
    given = catalog()
    given.withdraw_gpu_type("l4")
    given.collect_events()
    small = CPU.model_copy(update={"name": "cpu-small"})
    more = {"cpu": 5, "cpu-small": 1, "l4": 8}
    given.seed(
        Offers(
            gpu_types=(CPU, L4, small),
            regions=(
                LOCAL.model_copy(update={"capacity": more}),
                Region(name="oslo", title="Oslo", capacity={"l4": 8, "cpu": 1}),
            ),
            bases=(TINY, TINY.model_copy(update={"name": "little"})),
        )
    )
    assert happened(given) == [
        "GpuTypeOffered",
        "CapacityDeclared",
        "RegionOffered",
        "BaseModelListed",
    ]
    assert given.region("local").capacity == {"cpu": 2, "cpu-small": 1}
    assert given.region("oslo").capacity == {"cpu": 1}, "l4 was withdrawn and stays so"


def test_an_unchanged_entry_is_no_event() -> None:
    assert not when(
        catalog(),
        lambda given: given.offer_gpu_type(CPU),
        lambda given: given.offer_region(LOCAL),
        lambda given: given.declare_capacity("local", "cpu", 2),
        lambda given: given.list_base(TINY),
    )


def test_each_change_is_an_event_and_a_version() -> None:
    given = catalog()
    version = given.version_text
    here = LOCAL.model_copy(update={"title": "Here"})
    assert when(
        given,
        lambda it: it.declare_capacity("local", "l4", 4),
        lambda it: it.declare_capacity("local", "l4", 0),
        lambda it: it.withdraw_gpu_type("l4"),
        lambda it: it.offer_region(here),
        lambda it: it.withdraw_region("local"),
        lambda it: it.delist_base("tiny"),
    ) == [
        fact("CapacityDeclared", region="local", gpu_type="l4", count=4),
        fact("CapacityDeclared", count=0),
        fact("GpuTypeWithdrawn", name="l4"),
        fact("RegionOffered", region=here),
        fact("RegionWithdrawn", name="local"),
        fact("BaseModelDelisted", name="tiny"),
    ]
    assert int(given.version_text) == int(version) + 6
    assert (list(given.gpu_types), given.regions, given.bases) == (["cpu"], {}, {})


def test_an_event_keeps_the_capacity_that_it_told_of() -> None:
    given = Catalog.open()
    given.seed(OFFERS)
    given.declare_capacity("local", "cpu", 7)
    offered = [each for each in given.collect_events() if isinstance(each, Catalog.RegionOffered)]
    assert [each.region.capacity for each in offered] == [{"cpu": 2}]


def test_a_type_that_a_region_has_is_not_withdrawn() -> None:
    given = catalog()
    with pytest.raises(Invalid) as refusal:
        given.withdraw_gpu_type("cpu")
    assert refusal.value.field == "gpu_type"
    given.declare_capacity("local", "cpu", 0)
    given.withdraw_gpu_type("cpu")
    assert given.region("local").capacity == {}


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (lambda given: given.gpu_type("h900"), "gpu_type"),
        (lambda given: given.region("moon"), "region"),
        (lambda given: given.rate_micros_per_hour("cpu", 3), "gpu_count"),
        (lambda given: given.rate_micros_per_hour("cpu", 0), "gpu_count"),
        (lambda given: given.rate_micros_per_hour("tpu", 1), "gpu_type"),
        (lambda given: given.declare_capacity("moon", "cpu", 1), "region"),
        (lambda given: given.declare_capacity("local", "tpu", 1), "gpu_type"),
        (lambda given: given.declare_capacity("local", "cpu", -1), "capacity"),
        (
            lambda given: given.offer_region(LOCAL.model_copy(update={"capacity": {"tpu": 1}})),
            "gpu_type",
        ),
        (
            lambda given: given.offer_gpu_type(L4.model_copy(update={"name": "l4-new"})),
            "device_names",
        ),
        (lambda given: given.list_base(TINY.model_copy(update={"shape": HEADLESS})), "kv_heads"),
    ],
)
def test_an_inconsistent_entry_is_refused(command: Callable[[Catalog], Any], field: str) -> None:
    given = catalog()
    with pytest.raises(Invalid) as refusal:
        command(given)
    assert refusal.value.field == field
    assert happened(given) == []


@pytest.mark.parametrize("value", [0, -1, nan, inf, 10**12])
@pytest.mark.parametrize("field", ["vram_gib", "micros_per_hour", "bf16_tflops", "max_per_job"])
def test_a_figure_that_cannot_be_is_refused(field: str, value: float) -> None:
    given = catalog()
    with pytest.raises(Invalid) as refusal:
        given.offer_gpu_type(CPU.model_copy(update={field: value}))
    assert refusal.value.field == field
    assert happened(given) == []


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 101])
def test_a_name_is_what_can_be_typed(name: str) -> None:
    given = catalog()
    for command in (
        lambda: given.offer_gpu_type(CPU.model_copy(update={"name": name})),
        lambda: given.offer_region(LOCAL.model_copy(update={"name": name})),
        lambda: given.list_base(TINY.model_copy(update={"name": name})),
    ):
        with pytest.raises(Invalid) as refusal:
            command()
        assert refusal.value.field == "name"


def test_what_is_not_there_is_not_withdrawn() -> None:
    given = catalog()
    for command in (given.withdraw_gpu_type, given.withdraw_region, given.delist_base):
        with pytest.raises(NotFound):
            command("moon")
    assert happened(given) == []


def test_what_ships_is_accepted_whole_and_names_its_sources() -> None:
    shipped = shipped_offers()
    given = catalog(shipped)
    assert len(given.gpu_types) == len(shipped.gpu_types)
    assert given.region("local").capacity == {"cpu": 2, "cpu-small": 1}
    assert {"l4", "a10g", "a100-40", "a100-80", "h100", "h200"} <= given.gpu_types.keys()
    sizes = [base.shape.parameters for base in given.bases.values()]
    assert min(sizes) < 0.2e9
    assert max(sizes) > 70e9
    for offer in (*given.gpu_types.values(), *given.bases.values()):
        assert offer.source
    for base in given.bases.values():
        assert base.source.startswith(f"https://huggingface.co/{base.repository}/")


@pytest.mark.parametrize("base", shipped_offers().bases, ids=lambda base: base.name)
def test_the_figures_of_a_base_add_up_to_its_parameters(base: CatalogBase) -> None:
    """Embeddings and layers; norms and biases are less than one in a thousand."""
    shape = base.shape
    layer = sum(inputs * outputs for inputs, outputs in shape.linears.values())
    embeddings = shape.vocab_size * shape.hidden_size * (1 if shape.tied_embeddings else 2)
    weights = shape.layers * layer + embeddings
    assert weights <= shape.parameters < weights * 1.001


def test_the_small_cpu_type_makes_smollm2_use_four_bits() -> None:
    given = catalog(shipped_offers())
    shape = given.bases["smollm2-135m-instruct"].shape
    precisions = {
        name: decide(Layout(shape, Hyperparameters(), 347), given.gpu_type(name)).precision
        for name in ("cpu", "cpu-small")
    }
    assert precisions == {"cpu": Precision.FLOAT32, "cpu-small": Precision.NF4}
