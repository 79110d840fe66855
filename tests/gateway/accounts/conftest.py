"""An operator in a browser."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from domain.access.role import Role
from tests.builders.platform import Platform
from tests.gateway.web.signed_in import Browser, signed_in


@pytest.fixture
def operator(client: TestClient, platform: Platform) -> Browser:
    return signed_in(client, platform.person(Role.OPERATOR))
