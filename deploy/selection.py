"""Ends the process with one line if ECOLINK_EXTENSIONS is invalid.

Import this module first, because other modules use the selection while they are imported.
"""

import sys

from infrastructure.extensions import UnknownExtension, selected
from infrastructure.extras import MissingExtra

try:
    selected()
except (UnknownExtension, MissingExtra) as error:
    sys.exit(f"Error: {error}")
