"""The page of settings groups them, hides internal ones, and shows sizes and links."""

from __future__ import annotations

from decimal import Decimal

import pytest
from pydantic import ByteSize

from infrastructure.extensions import installed
from infrastructure.settings import INTERNAL, Settings
from tests.docs import settings
from tests.docs.markdown import text

PAGE = settings.page()
FIELDS = {
    **Settings.model_fields,
    **{name: field for each in installed() for name, field in each.own_settings.items()},
}
UNITS = ("_seconds", "_bytes", "_days", "_dollars")
COUNTS = ("_port", "_replicas", "_trainers", "_threads", "_rows", "_limit", "_per_gpu", "_pid")
PLAIN = {
    "guarantee_factor",
    "max_concurrent_exports",
    "max_concurrent_pushes",
    "synthesis_requests",
    "clock_speed",
}


def test_the_settings_that_a_server_needs_are_the_first_table() -> None:
    table = PAGE.partition("## Server\n")[2].partition("\n## ")[0]
    assert table.count("\n| `ECOLINK_") == 8
    assert "`ECOLINK_DATABASE_URL` |" in table


@pytest.mark.parametrize("name", FIELDS)
def test_a_setting_is_on_the_page_unless_it_is_internal(name: str) -> None:
    shown = f"| `ECOLINK_{name.upper()}` |" in PAGE
    assert shown is (INTERNAL not in FIELDS[name].metadata)


@pytest.mark.parametrize("name", FIELDS)
def test_the_name_of_a_quantity_ends_in_its_unit(name: str) -> None:
    kinds = {FIELDS[name].annotation, type(FIELDS[name].default)}
    if ByteSize in kinds:
        assert name.endswith("_bytes")
    elif Decimal in kinds:
        assert name.endswith("_dollars")
    elif kinds & {int, float}:
        assert name.endswith(UNITS + COUNTS) or name in PLAIN


def test_a_size_has_a_unit() -> None:
    assert Settings(disk_low_bytes="1.5GiB").disk_low_bytes == 3 * 2**29
    assert "| `ECOLINK_DISK_LOW_BYTES` | size | `5GiB` |" in PAGE


def test_links_and_code_stay_as_they_are_and_other_brackets_are_escaped() -> None:
    written = "See [Processes](../operations.md#processes), `a[0]` and <name> [x]."
    assert text(written) == written.replace("<name> [x]", r"\<name\> \[x\]")
