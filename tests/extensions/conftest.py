"""Fixtures of extensions, which use the gateway and the store of the core."""

from tests.gateway.conftest import *  # noqa: F403
