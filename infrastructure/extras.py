"""Extras of pyproject.toml: the packages that only some features need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.utils import canonicalize_name

PARQUET, QUALITY, TIMESTAMPS, TRACING = "parquet", "quality", "timestamps", "tracing"
"""Extras of the core."""

COMBINED = ("all", "dev")
"""Extras that belong to no feature."""

_REQUIREMENT = re.compile(r"""([\w.-]+).*\bextra == ['"]([\w-]+)['"]""")


class MissingExtra(ImportError):
    """A feature needs packages that are not installed."""


def missing(extra: str) -> list[str]:
    """Return the packages of an extra that are not installed. An unknown extra has none."""
    packages = _packages().get(canonicalize_name(extra), ())
    return [name for name in packages if installed_version(name) is None]


def require(extra: str, feature: str) -> None:
    """Raise MissingExtra unless the packages of an extra are installed."""
    if names := missing(extra):
        raise MissingExtra(
            f"{feature} needs packages that are not installed: {', '.join(names)}. Run "
            f"`pip install 'ecolink[{extra}]'`."
        )


def extras_of_features() -> tuple[str, ...]:
    """Return the names of the extras of all features, with hyphens as in the metadata."""
    return tuple(name for name in _packages() if name not in COMBINED)


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _packages() -> Mapping[str, tuple[str, ...]]:
    """Return the packages of each extra. Without EcoLink's metadata, there is no extra."""
    found: dict[str, tuple[str, ...]] = {}
    try:
        requirements = requires("ecolink") or ()
    except PackageNotFoundError:
        return found
    for each in requirements:
        if match := _REQUIREMENT.match(each):
            extra = canonicalize_name(match[2])
            found[extra] = (*found.get(extra, ()), match[1])
    return found
