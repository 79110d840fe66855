"""Fixtures of the command line."""

from tests.gateway.cli.conftest import url as url
