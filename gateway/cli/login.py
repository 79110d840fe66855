"""The login that the command line keeps: one gateway, and the key to show there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import typer

from gateway.cli.client import ClientError, Endpoint


def login_file() -> Path:
    """Where the login is kept, in the user's configuration folder (XDG_CONFIG_HOME)."""
    return Path(typer.get_app_dir("ecolink")) / "login.json"


def read_login() -> Endpoint | None:
    """The login, if there is one; raises ClientError for a file that is none."""
    try:
        kept = json.loads(login_file().read_text())
        return Endpoint(str(kept["url"]), str(kept["key"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClientError(
            f"the login in {login_file()} cannot be read; `ecolink logout` removes it"
        ) from error


def write_login(endpoint: Endpoint) -> Path:
    """Keep a login where only its owner reads it; returns the file. Raises OSError."""
    path = login_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"url": endpoint.url, "key": endpoint.key}, file)
    draft.replace(path)
    return path


def remove_login() -> bool:
    """Forget the login; whether there was one. Raises OSError."""
    try:
        login_file().unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
