"""The page of the catalog, with the jobs that use each entry."""

from __future__ import annotations

from domain.catalog.catalog import Catalog
from domain.core.aggregate import because
from domain.core.identity import CATALOG_ID
from tests.builders.platform import BASE_MODEL, Platform
from tests.gateway.jobs.owners import Owner
from tests.gateway.ops.pages import row, shown
from tests.gateway.web.signed_in import Browser


def test_each_entry_has_the_jobs_that_use_it(
    operator: Browser, platform: Platform, owner: Owner
) -> None:
    platform.project()
    base = f'data-entry="bases {BASE_MODEL}"'
    assert row(shown(operator, "/ops/catalog"), base).endswith(" 0 1 0")
    owner.train()
    platform.project()
    page = shown(operator, "/ops/catalog")
    for entry in ('data-entry="gpu-types cpu"', 'data-entry="regions local"', base):
        assert row(page, entry).endswith(" 1 0 0"), entry
    assert row(page, 'data-entry="gpu-types h100"').endswith(" 0 0 0")


def test_an_entry_that_was_withdrawn_is_shown_while_a_job_uses_it(
    operator: Browser, platform: Platform, owner: Owner
) -> None:
    with because(platform.cause):
        catalog = platform.log.load(Catalog, CATALOG_ID)
        for region in catalog.regions.values():
            if "cpu" in region.capacity:
                catalog.declare_capacity(region.name, "cpu", 0)
        catalog.withdraw_gpu_type("cpu")
        catalog.withdraw_gpu_type("h100")
        platform.log.commit(catalog)
    platform.project()
    page = shown(operator, "/ops/catalog")
    assert row(page, 'data-entry="gpu-types cpu"') == "cpu not in the catalog – 0 1 0"
    assert "gpu-types h100" not in page
