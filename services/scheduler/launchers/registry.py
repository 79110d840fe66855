"""The registry of launchers: that of the core, and those of extensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from infrastructure.checks.machine import Check, Level
from infrastructure.extensions import (
    Extension,
    InvalidSetting,
    LauncherOf,
    installed,
    read_settings,
    selected,
)
from infrastructure.extras import MissingExtra, require
from infrastructure.process.clock import Clock
from infrastructure.settings import Settings
from services.scheduler.launchers.launcher import TRAINER, Launcher, OpenLauncher, ReadCatalog
from services.scheduler.launchers.local import LocalLauncher


class UnknownLauncher(ValueError):
    """ECOLINK_LAUNCHER does not name a launcher."""


def launchers() -> Mapping[str, OpenLauncher]:
    """Return the functions that open launchers, by value of ECOLINK_LAUNCHER."""
    return {"local": LocalLauncher} | {
        name: partial(_open, extension, each) for name, (extension, each) in _added().items()
    }


def open_launcher(settings: Settings, clock: Clock, catalog: ReadCatalog) -> Launcher:
    """Return the launcher that the settings name.

    Raise UnknownLauncher if there is none, and MissingExtra if its extension lacks packages.
    """
    _require_known(settings.launcher)
    return launchers()[settings.launcher](settings, clock, catalog, TRAINER)


def launcher_checks(settings: Settings) -> Iterator[Check]:
    """Check the settings of the launcher, and its connection, for `ecolink doctor`."""
    try:
        _require_known(settings.launcher)
        if settings.launcher in (added := _added()):
            extension, each = added[settings.launcher]
            yield from extension.load(each.checks)(_extended(settings, extension))
    except (UnknownLauncher, MissingExtra, InvalidSetting) as error:
        yield Check("launcher", Level.FAILED, str(error))


def _require_known(name: str) -> None:
    known = launchers()
    if name not in known:
        for extension in installed():
            if name in extension.launchers:
                require(extension.name, f"The launcher {name!r}")
        raise UnknownLauncher(
            f"ECOLINK_LAUNCHER is {name!r}. Set it to one of: {', '.join(known)}."
        )


def _added() -> dict[str, tuple[Extension, LauncherOf]]:
    return {name: (one, each) for one in selected() for name, each in one.launchers.items()}


def _open(
    extension: Extension,
    launcher: LauncherOf,
    settings: Settings,
    clock: Clock,
    catalog: ReadCatalog,
    program: Sequence[str] = TRAINER,
) -> Launcher:
    opened: OpenLauncher = extension.load(launcher.open)
    return opened(_extended(settings, extension), clock, catalog, program)


def _extended(settings: Settings, extension: Extension) -> Settings:
    """Return settings with those of an extension, from the variables of this process."""
    extended = read_settings(extension, **settings.model_dump())
    assert isinstance(extended, Settings)
    return extended
