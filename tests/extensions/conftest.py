"""Fixtures of extensions, which use the gateway and the store of the core."""

from importlib.util import find_spec

from tests.e2e.conftest import ecolink as ecolink
from tests.gateway.conftest import *  # noqa: F403

# Only the extension `backup` restores the data of other extensions.
collect_ignore_glob = [] if find_spec("extensions.backup") else ["*/test_restore.py"]
