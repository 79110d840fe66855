"""Memory on the wizard: the need of each GPU, and settings that fit."""

from __future__ import annotations

import re
from urllib.parse import unquote

from domain.catalog.catalog import Catalog
from domain.core.aggregate import because
from domain.core.identity import CATALOG_ID
from domain.core.quantities import GIB
from domain.estimating.footprint import FLOAT32, Layout, bytes_per_parameter, memory_items
from domain.training.hyperparameters import Hyperparameters
from domain.training.precision import Precision
from tests.builders.tiny_model import TINY_SHAPE
from tests.gateway.jobs.launch.wizard_form import Wizard, problem


def test_bytes_of_a_parameter_match_the_memory_fit(wizard: Wizard) -> None:
    wizard.platform.open_pool("l4", 1)
    purpose = wizard.complete()["base_model-purpose"]
    of_cpu = bytes_per_parameter(TINY_SHAPE, Precision.NF4, FLOAT32)
    of_gpu = bytes_per_parameter(TINY_SHAPE, Precision.NF4)
    assert {"4", f"{of_cpu:g}"} <= {*purpose.text.split()}
    assert "(float32)" in wizard.shown["precision"].text
    purpose = wizard.change(gpu_type="l4")["base_model-purpose"]
    assert {"2", f"{of_gpu:g}"} <= {*purpose.text.split()}
    assert "(bf16)" in wizard.shown["precision"].text
    assert "bytes" not in wizard.change(gpu_type="")["base_model-purpose"].text


def test_memory_figures_agree_across_the_page(wizard: Wizard) -> None:
    shown = wizard.complete()
    said = re.search(r"([\d.]+) of [\d.]+ GiB", shown["precision"].text)
    assert said is not None
    assert shown["memory-summary"].text.startswith(f"{said[1]} of")
    assert f"{said[1]} of" in shown["step-6"].text


def memory_of(wizard: Wizard, gib: float) -> None:
    """Set a GPU's memory in the catalog."""
    with because(wizard.platform.cause):
        catalog = wizard.platform.log.load(Catalog, CATALOG_ID)
        catalog.offer_gpu_type(catalog.gpu_types["cpu"].model_copy(update={"vram_gib": gib}))
        wizard.platform.log.commit(catalog)


def least_gib(wizard: Wizard, precision: Precision) -> float:
    """Return the memory that the default job needs in a precision."""
    gpu = wizard.platform.log.load(Catalog, CATALOG_ID).gpu_types["cpu"]
    layout = Layout(TINY_SHAPE, Hyperparameters(), 50, 1)
    return sum(memory_items(layout, precision, True, gpu).values()) / GIB


def test_a_large_base_is_loaded_in_four_bits(wizard: Wizard) -> None:
    four, full = (least_gib(wizard, each) for each in (Precision.NF4, Precision.BF16))
    memory_of(wizard, (four + full) / 2)
    shown = wizard.complete()
    assert "4-bit QLoRA" in shown["precision"].text
    assert "4-bit QLoRA" in shown["step-6"].text


def test_a_job_that_does_not_fit_offers_settings_that_do(wizard: Wizard) -> None:
    memory_of(wizard, 1.0001 * least_gib(wizard, Precision.NF4))
    wizard.complete()
    shown = wizard.change(micro_batch_size="64", gradient_accumulation="1")
    assert problem(shown, "micro_batch_size")
    click = next(each for each in shown["does-not-fit"].all() if each.tag == "button")
    wizard.click(unquote(click.attributes["hx-post"].partition("choose=")[2]))
    sent = wizard.shown.fields
    assert (sent["micro_batch_size"], sent["gradient_accumulation"]) == ("4", "16")
    assert wizard.is_clickable
