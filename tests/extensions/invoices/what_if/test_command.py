"""`ecolink audit what-if` on a store without services."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from domain.core.event_log import EventLog
from tests.builders.examples import ACCOUNT_ID
from tests.deploy.operator.command_line import ecolink
from tests.deploy.operator.conftest import _configured  # noqa: F401
from tests.extensions.invoices.bills import two_months


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    file = tmp_path / "prices.toml"
    file.write_text("[gpu_types.h100]\nmicros_per_hour = 14_400_002\n")
    return file


def test_the_difference_is_shown_by_account_and_gpu_type(log: EventLog, prices: Path) -> None:
    two_months(log)
    shown = ecolink("audit", "what-if", "--prices", str(prices))
    assert str(ACCOUNT_ID) in shown
    assert "h100" in shown
    assert "cpu (not in the file)" in shown
    options = ("--from", "2026-11-01", "--until", "2026-12-01", "--json")
    document = json.loads(ecolink("audit", "what-if", "--prices", str(prices), *options))
    (h100,) = (each for each in document["gpu_types"] if each["gpu_type"] == "h100")
    assert h100["seconds"] == 602
    assert h100["repriced_micros"] == 2 * h100["charged_micros"] + h100["charged_micros"] % 2
    assert document["total"]["difference_micros"] == h100["difference_micros"]
    rounded = json.loads(
        ecolink("audit", "what-if", "--prices", str(prices), "--rounding", "minute", *options)
    )
    assert rounded["total"]["repriced_micros"] > document["total"]["repriced_micros"]


def test_a_catalog_is_a_file_of_prices(log: EventLog, tmp_path: Path) -> None:
    two_months(log)
    file = tmp_path / "catalog.toml"
    shipped = files("domain.catalog").joinpath("catalog.toml").read_text(encoding="utf-8")
    file.write_text(shipped, encoding="utf-8")
    assert "total" in ecolink("audit", "what-if", "--prices", str(file))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x", "not TOML"),
        ("", "gpu_types"),
        ("[gpu_types.cpu]\nmicros_per_hour = -1", "gpu_types.cpu.micros_per_hour"),
        ("[gpu_types.cpu]\nmicros_per_hour = 1.5", "gpu_types.cpu.micros_per_hour"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    assert reason in ecolink("audit", "what-if", "--prices", str(file), exit_code=1)
