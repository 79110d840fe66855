"""The `ecolink` command. It reports an invalid selection of extensions without a traceback."""

from __future__ import annotations

import sys

from infrastructure.extensions import UnknownExtension, selected
from infrastructure.extras import MissingExtra


def main() -> None:
    """Run the command line."""
    try:
        selected()
    except (UnknownExtension, MissingExtra) as error:
        sys.exit(f"Error: {error}")
    from deploy.cli import main as run  # it loads the commands of the selected extensions

    run()
