"""The registry of launchers: that of the core, and those of extensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from infrastructure.checks.machine import Check, Level
from infrastructure.extensions import Extension, InvalidSetting, LauncherOf, read_settings, selected
from infrastructure.process.clock import Clock
from infrastructure.settings import Settings
from services.scheduler.launchers.launcher import TRAINER, Launcher, OpenLauncher, ReadCatalog
from services.scheduler.launchers.local import LocalLauncher


class MissingExtra(ImportError):
    """A launcher needs packages that are not installed."""


class UnknownLauncher(ValueError):
    """ECOLINK_LAUNCHER does not name a launcher."""


def launchers() -> Mapping[str, OpenLauncher]:
    """Return the functions that open launchers, by value of ECOLINK_LAUNCHER."""
    return {"local": LocalLauncher} | {
        name: partial(_open, extension, each) for name, (extension, each) in _added().items()
    }


def open_launcher(settings: Settings, clock: Clock, catalog: ReadCatalog) -> Launcher:
    """Return the launcher that the settings name. Raise UnknownLauncher if there is none."""
    known = launchers()
    if settings.launcher not in known:
        raise UnknownLauncher(
            f"Unknown launcher {settings.launcher!r}. "
            f"Set ECOLINK_LAUNCHER to one of: {', '.join(known)}."
        )
    return known[settings.launcher](settings, clock, catalog, TRAINER)


def launcher_checks(settings: Settings) -> Iterator[Check]:
    """Check the settings of the launcher, and its connection, for `ecolink doctor`."""
    added = _added()
    if settings.launcher in added:
        extension, each = added[settings.launcher]
        try:
            with _extra(extension, each):
                checks = extension.load(each.checks)
            yield from checks(_extended(settings, extension))
        except (MissingExtra, InvalidSetting) as error:
            yield Check("launcher", Level.FAILED, str(error))
    elif settings.launcher not in launchers():
        names = ", ".join(launchers())
        text = f"ECOLINK_LAUNCHER is {settings.launcher!r}. Set it to one of: {names}."
        yield Check("launcher", Level.FAILED, text)


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
    with _extra(extension, launcher):
        opened: OpenLauncher = extension.load(launcher.open)
    return opened(_extended(settings, extension), clock, catalog, program)


def _extended(settings: Settings, extension: Extension) -> Settings:
    """Return settings with those of an extension, from the variables of this process."""
    extended = read_settings(extension, **settings.model_dump())
    assert isinstance(extended, Settings)
    return extended


@contextmanager
def _extra(extension: Extension, launcher: LauncherOf) -> Iterator[None]:
    """Raise MissingExtra instead of an ImportError of the launcher's package."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = launcher.needs
        if not package or (error.name or "").partition(".")[0] != package:
            raise
        raise MissingExtra(
            f"The launcher of the extension {extension.name} needs the package {package}, which is "
            f"not installed. Run `pip install 'ecolink[{extension.name}]'`."
        ) from error
