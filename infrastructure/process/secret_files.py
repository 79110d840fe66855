"""Variables from files, as Docker, Kubernetes and systemd (`LoadCredential=`) mount secrets."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

DIRECTORY = "ECOLINK_SECRETS_DIR"


def load_secret_files(variables: MutableMapping[str, str] = os.environ) -> None:
    """Set a variable from each file in ECOLINK_SECRETS_DIR, unless it is already set.

    The variable has the name of the file in upper case, and its content without spaces and line
    breaks at both ends. Files whose names cannot be variables, such as `services.creds`, are left
    alone. Raise ValueError if the directory does not exist or a file cannot be read.
    """
    if DIRECTORY not in variables:
        return
    directory = Path(variables[DIRECTORY])
    try:
        for path in sorted(directory.iterdir()):
            name = path.name.upper()
            if name.isidentifier() and name not in variables and path.is_file():
                variables[name] = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{DIRECTORY} is {str(directory)!r}, and its files cannot be read: {error}. Mount the "
            "secrets there, readable by this user, or unset the variable."
        ) from error
