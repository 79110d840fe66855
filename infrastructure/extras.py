"""Extras of pyproject.toml: the packages that only some features need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SERVER, PARQUET, TIMESTAMPS, TRACING = "server", "parquet", "timestamps", "tracing"
"""Extras of the core."""

COMBINED = "all"
"""Extra that combines all others."""

_EXTRA = re.compile(r"""\bextra == ['"]([\w-]+)['"]""")


class MissingExtra(ImportError):
    """A feature needs packages that are not installed."""


def missing(extra: str) -> list[str]:
    """Return the packages of an extra that are not installed in a version that it allows.

    An unknown extra has none.
    """
    return [
        each.name if installed_version(each.name) is None else f"{each.name}{each.specifier}"
        for each in packages_of(extra)
        if not is_met(each)
    ]


def require(extra: str, feature: str) -> None:
    """Raise MissingExtra unless the packages of an extra are installed."""
    if names := missing(extra):
        raise MissingExtra(
            f"{feature} needs packages that are not installed: {', '.join(names)}. Run "
            f"`pip install 'ecolink[{extra}]'`."
        )


def packages_of(extra: str) -> tuple[Requirement, ...]:
    """Return the packages of an extra."""
    return _packages().get(canonicalize_name(extra), ())


def extras_of_features() -> tuple[str, ...]:
    """Return the names of the extras of all features, with hyphens as in the metadata."""
    return tuple(name for name in _packages() if name != COMBINED)


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def is_met(requirement: Requirement) -> bool:
    """Return True if a version that the requirement allows is installed."""
    found = installed_version(requirement.name)
    return found is not None and requirement.specifier.contains(found, prereleases=True)


@cache
def _packages() -> Mapping[str, tuple[Requirement, ...]]:
    """Return the packages of each extra. Without EcoLink's metadata, there is no extra."""
    found: dict[str, tuple[Requirement, ...]] = {}
    try:
        requirements = requires("ecolink") or ()
    except PackageNotFoundError:
        return found
    for each in map(Requirement, requirements):
        if match := _EXTRA.search(str(each.marker)):
            extra = canonicalize_name(match[1])
            found[extra] = (*found.get(extra, ()), each)
    return found
