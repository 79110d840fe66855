"""The roles of EcoLink, the processes that run them, and their environment variables."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping

from infrastructure import extensions
from infrastructure.extensions import installed, processes, selected
from infrastructure.settings import Settings

# Role -> `module:callable`, in start order. Each takes Settings and returns when it must stop.
PROCESSES: dict[str, str] = {
    "relay": "services.relay.app:run",
    "sealer": "services.sealer.app:run",
    "projector": "services.projector.app:run",
    "billing": "services.billing.app:run",
    "scheduler": "services.scheduler.app:run",
    "datasets": "services.datasets.app:run",
    "serving": "services.serving.app:run",
    "gateway": "gateway.app:run",
}
PLACES = {
    "relay": 0,
    "sealer": 1,
    "projector": 2,
    "billing": 3,
    "scheduler": 4,
    "datasets": 5,
    "serving": 7,
    "gateway": 9,
} | {name: each.metrics_place for name, each in processes(installed()).items()}
"""Places of the ports of metrics after the first one, by role. They never change."""

PROCESSES |= {
    name: f"{extension.package}.{process.run}"
    for extension in selected()
    for name, process in extension.processes.items()
}

GROUPS: dict[str, tuple[str, ...]] = {"log": ("relay", "projector")}
"""Roles that share a process, by the name of the process. Other roles have one of their own.

It has no role if the extensions with its roles are not selected.
"""

for _name, _process in processes(installed()).items():
    if _process.shares:
        _roles = GROUPS.get(_process.shares, ())
        GROUPS[_process.shares] = (*_roles, _name) if _name in PROCESSES else _roles

SHARED_PLACES = {"log": 0, "outbound": 6}
"""Places of the ports of metrics of shared processes, which do not depend on their roles."""

ALL = "all"
"""Value of ECOLINK_SEPARATE_ROLES for all roles."""

MARK = "__"
"""Separates the name of a role from that of a variable which only this role gets."""


def grouped(roles: Iterable[str], separate: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the roles of each process, by its name. A role alone gives its name to its process.

    `separate` has the roles that share no process.
    """
    found: dict[str, tuple[str, ...]] = {}
    for role in roles:
        group = next((name for name, own in GROUPS.items() if role in own), role)
        process = role if role in separate else group
        found[process] = (*found.get(process, ()), role)
    return {name if len(own) > 1 else next(iter(own)): own for name, own in found.items()}


def metrics_place(process: str, roles: Iterable[str]) -> int:
    """Return the place of the port of metrics of a process that runs some roles."""
    shared = SHARED_PLACES.get(process)
    return min(PLACES[role] for role in roles) if shared is None else shared


def separate_roles(settings: Settings) -> set[str]:
    """Return the roles that share no process. Raise ValueError if there is no such role."""
    names = {each.strip() for each in settings.separate_roles.split(",") if each.strip()}
    if unknown := sorted(names - {ALL, *PROCESSES}):
        raise ValueError(
            f"ECOLINK_SEPARATE_ROLES names {unknown[0]!r}, which is no role. Use `{ALL}` or some "
            f"of {', '.join(PROCESSES)}."
        )
    return set(PROCESSES) if ALL in names else names


def shared_variables(own: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the variables of a process from those of its roles.

    A variable that is not the same for all roles gets the name of its role in front.
    """
    return {
        name if all(each.get(name) == value for each in own.values()) else _of(role, name): value
        for role, variables in own.items()
        for name, value in variables.items()
    }


def variables_of(role: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a role from those of its process, without those of other roles."""
    prefix = _of(role, "")
    own = {
        name.removeprefix(prefix): value
        for name, value in variables.items()
        if name.startswith(prefix)
    }
    prefixes = tuple(_of(each, "") for each in PROCESSES)
    common = {name: each for name, each in variables.items() if not name.startswith(prefixes)}
    return common | own


def settings_from(variables: Mapping[str, str]) -> Settings:
    """Return the settings in some variables. Call it before other threads use the environment."""
    kept = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        return Settings()
    finally:
        os.environ.clear()
        os.environ.update(kept)


def _of(role: str, name: str) -> str:
    return f"{role.upper()}{MARK}{name}"


def environment(settings: Settings, role: str | None = None) -> dict[str, str]:
    """Return the settings, and those of extensions for a role, as variables without unset ones."""
    return extensions.environment(role) | {
        f"ECOLINK_{name.upper()}": json.dumps(value) if isinstance(value, dict) else str(value)
        for name, value in settings.model_dump().items()
        if value is not None
    }
