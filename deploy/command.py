"""The `ecolink` command. It reports an invalid selection of extensions without a traceback."""

import deploy.selection  # noqa: F401 - first
from deploy.cli import main as main
