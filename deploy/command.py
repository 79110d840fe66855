"""The `ecolink` command: of a server if its packages are installed, otherwise of a client.

It reports an invalid selection of extensions without a traceback.
"""

import sys
from importlib.util import find_spec

import deploy.selection  # noqa: F401 - first

if sys.platform == "linux" and find_spec("faststream") is not None:  # of the extra `server`
    from deploy.cli import main as main
else:
    from gateway.cli import main as main
