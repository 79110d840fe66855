"""The registry of launchers.

To add a launcher, write a module in this package, add its line to LAUNCHERS, and add its row to
`tests/services/scheduler/launchers/test_launcher.py`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from infrastructure.checks.machine import Check, Level
from infrastructure.process.clock import Clock
from infrastructure.settings import Settings
from services.scheduler.launchers.launcher import TRAINER, Launcher, OpenLauncher, ReadCatalog
from services.scheduler.launchers.local import LocalLauncher
from services.scheduler.launchers.slurm import SlurmLauncher
from services.scheduler.launchers.slurm_checks import slurm_checks


class MissingExtra(ImportError):
    """A launcher needs packages that are not installed."""


@contextmanager
def _extra(package: str) -> Iterator[None]:
    """Import modules of an extra only if they are used, or raise MissingExtra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise MissingExtra(
            f"ECOLINK_LAUNCHER is {package!r}, but the package {package} is not installed. Run "
            f"`pip install 'ecolink[{package}]'`."
        ) from error


def _open_kubernetes(
    settings: Settings, clock: Clock, catalog: ReadCatalog, program: Sequence[str]
) -> Launcher:
    with _extra("kubernetes"):
        from services.scheduler.launchers.kubernetes.launcher import KubernetesLauncher
    return KubernetesLauncher(settings, clock, catalog, program)


def _check_kubernetes(settings: Settings) -> Iterator[Check]:
    with _extra("kubernetes"):
        from services.scheduler.launchers.kubernetes.checks import checks
    yield from checks(settings)


LAUNCHERS: Mapping[str, OpenLauncher] = {
    "local": LocalLauncher,
    "kubernetes": _open_kubernetes,
    "slurm": SlurmLauncher,
}


CHECKS: Mapping[str, Callable[[Settings], Iterator[Check]]] = {
    "kubernetes": _check_kubernetes,
    "slurm": slurm_checks,
}


class UnknownLauncher(ValueError):
    """ECOLINK_LAUNCHER does not name a launcher."""


def open_launcher(settings: Settings, clock: Clock, catalog: ReadCatalog) -> Launcher:
    """Return the launcher that the settings name. Raise UnknownLauncher if there is none."""
    if settings.launcher not in LAUNCHERS:
        raise UnknownLauncher(
            f"Unknown launcher {settings.launcher!r}. "
            f"Set ECOLINK_LAUNCHER to one of: {', '.join(LAUNCHERS)}."
        )
    return LAUNCHERS[settings.launcher](settings, clock, catalog, TRAINER)


def launcher_checks(settings: Settings) -> Iterator[Check]:
    """Check the settings of the launcher, and its connection, for `ecolink doctor`."""
    if settings.launcher not in LAUNCHERS:
        names = ", ".join(LAUNCHERS)
        text = f"ECOLINK_LAUNCHER is {settings.launcher!r}. Set it to one of: {names}."
        yield Check("launcher", Level.FAILED, text)
    elif settings.launcher in CHECKS:
        try:
            yield from CHECKS[settings.launcher](settings)
        except MissingExtra as error:
            yield Check("launcher", Level.FAILED, str(error))
