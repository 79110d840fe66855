"""The saved login: the URL of a gateway, and an API key."""

from __future__ import annotations

import json
import os
from pathlib import Path

import typer

from gateway.cli.client import ClientError, Endpoint


def login_file() -> Path:
    """Return the path of the login file in the user's configuration folder (XDG_CONFIG_HOME)."""
    return Path(typer.get_app_dir("ecolink")) / "login.json"


def read_login() -> Endpoint | None:
    """Return the saved login, or None. Raise ClientError if the file is damaged."""
    try:
        kept = json.loads(login_file().read_text())
        return Endpoint(str(kept["url"]), str(kept["key"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClientError(
            f"Cannot read the login in {login_file()}. Delete it with `ecolink logout`."
        ) from error


def write_login(endpoint: Endpoint) -> Path:
    """Save a login in a file that only its owner can read, and return the file."""
    path = login_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"url": endpoint.url, "key": endpoint.key}, file)
    draft.replace(path)
    return path


def remove_login() -> bool:
    """Delete the login. Return True if there was one. Raise OSError on failure."""
    try:
        login_file().unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
