"""Who uses the pages: a browser that is signed in, and somebody at the wizard."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from tests.gateway.conftest import World
from tests.gateway.web.signed_in import Browser, signed_in
from tests.gateway.web.wizard_form import Wizard


@pytest.fixture
def browser(client: TestClient, world: World) -> Browser:
    """The browser of somebody with twenty dollars."""
    return signed_in(client, world.person(dollars=20))


@pytest.fixture
def wizard(browser: Browser, world: World) -> Wizard:
    """The wizard of somebody with a dataset of ten examples and twenty dollars."""
    world.base_model()
    wizard = Wizard(browser, world, world.dataset(browser.person))
    world.project()
    wizard.open()
    return wizard
