"""The running product."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import whole_product
from tests.running import EcoLinkUnderTest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run end-to-end tests one after another, because they share a stack."""
    items.sort(key=lambda item: HERE in item.path.parents)


@pytest.fixture(scope="package")
def ecolink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EcoLinkUnderTest]:
    """One stack for all end-to-end tests."""
    with whole_product(tmp_path_factory) as under_test:
        yield under_test
