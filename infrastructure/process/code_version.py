"""The version of the package, and the Git revision of its working tree."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = "ecolink"
DESCRIBE = ("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
GIT_SECONDS = 5

TREE = Path(__file__).parents[2]


def package_version() -> str:
    """Return the installed version, or "unknown" if the package is not installed."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "unknown"


def in_words() -> str:
    """Return the version and the revision as text."""
    return f"{package_version()} ({revision() or 'no revision'})"


@lru_cache
def revision() -> str | None:
    """Return the Git commit, with `-dirty` for uncommitted changes, or None without Git."""
    if not (TREE / ".git").exists():
        return None
    try:
        described = subprocess.run(
            DESCRIBE, cwd=TREE, capture_output=True, text=True, timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
