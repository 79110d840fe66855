"""Fixtures of extensions, which use the gateway and the store of the core."""

from tests.e2e.conftest import ecolink as ecolink
from tests.gateway.conftest import *  # noqa: F403
