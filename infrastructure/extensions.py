"""Extensions: optional features, each in one folder of `extensions/`.

The package of an extension declares everything that it adds to the core, as its EXTENSION. The core
imports no extension. It reads the declarations from `installed()` and `selected()`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, LiteralString

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsError

from domain import AGGREGATES
from domain.core.aggregate import Aggregate
from domain.core.topics import Kind
from infrastructure.extras import missing, require
from infrastructure.limits import LIMITS, Limit
from infrastructure.rights import Access, ArtifactAccess, BusAccess
from infrastructure.settings import Settings

PACKAGE = "extensions"
"""Package with the folders of all extensions."""

PREFIX = "ECOLINK_"
"""Start of the names of all variables."""

SELECTION = f"{PREFIX}EXTENSIONS"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of an extension. Exactly one of `owner`, `kept` and `cascades` is set."""

    name: str
    ddl: str
    """Statement that creates the table if it does not exist."""
    owner: LiteralString = ""
    """Column with the account, key, dataset or job whose deletion also deletes the row."""
    kept: str = ""
    """Reason why the rows have no personal data, so that an erasure keeps them."""
    cascades: bool = False
    """True if PostgreSQL deletes the rows with those of a table that has an owner."""
    aggregate: LiteralString = ""
    """Column with the aggregate of a row if it is not `owner`. A restore needs it in the log."""
    secret: bool = False
    """True if the rows are secrets. A backup stores them with its keys."""
    ephemeral: bool = False
    """True if no backup contains the rows."""
    time: LiteralString = ""
    """Time of a row. A restore to an earlier time deletes later rows."""
    event: LiteralString = ""
    """Notification ID of a row's event, or NULL. A restore deletes the rows of later events."""

    def __post_init__(self) -> None:
        """Raise ValueError if the declaration is incomplete."""
        if bool(self.owner) + bool(self.kept) + self.cascades != 1:
            raise ValueError(
                f"The table {self.name!r} needs an owner, a reason to keep it, or `cascades`."
            )


@dataclass(frozen=True, kw_only=True)
class Process:
    """A long-running process of an extension, with a role of its own."""

    run: str
    """Reference to a function that takes Settings and returns after SIGTERM."""
    access: Access
    """Rights in the database."""
    bus: BusAccess | None = None
    """Rights on the bus. None if the process does not use it."""
    artifacts: ArtifactAccess | None = None
    """Rights in the artifact store. None if the process does not use it."""
    metrics_place: int
    """Place of its port of metrics after the first one. No other process has it."""
    shares: str = ""
    """Name of the process that the role shares with other roles, such as `outbound`, or empty."""
    rereads: timedelta = timedelta()
    """Age of the events that it handles again after a restore to an earlier time."""


@dataclass(frozen=True)
class Panel:
    """A part that an extension adds to a page of the core, at a named place."""

    template: str
    data: str = ""
    """Reference to a function, whose result the template has under the extension's name.

    See docs/contribute/extending.md for its arguments.
    """


@dataclass(frozen=True, kw_only=True)
class LauncherOf:
    """A launcher of trainers, for one value of ECOLINK_LAUNCHER.

    Both references get the extension's settings, which extend those of EcoLink.
    """

    open: str
    """Reference to a `services.scheduler.launchers.launcher.OpenLauncher`."""
    checks: str
    """Reference to `(settings) -> Iterator[Check]`, for `ecolink doctor`."""


@dataclass(frozen=True, kw_only=True)
class Extension:
    """Everything that an extension adds to the core.

    A reference such as `api:router` names an attribute of a module in the extension's package. The
    core imports the module only in the processes that use it.
    """

    package: str
    """`__name__` of the package that declares the extension."""
    summary: str
    """Description in one sentence, for the list of extensions."""
    tables: tuple[Table, ...] = ()
    aggregates: tuple[type[Aggregate], ...] = ()
    """Aggregates, with their events."""
    projections: tuple[str, ...] = ()
    """References to read models."""
    descriptions: str = ""
    """Reference to `(event) -> str | None`, for events whose docstring says too little."""
    folders: tuple[str, ...] = ()
    """Folders of the artifact store in which each account has a folder. An erasure deletes it."""
    signed_documents: Mapping[str, str] = field(default_factory=dict)
    """References to `async (settings, leadership) -> None`, by folder of the artifact store.

    The sealer runs them beside sealing, because only it has the seal key. They sign the documents
    in the folder. An erasure keeps the folder.
    """
    artifacts: Mapping[type[Aggregate], str] = field(default_factory=dict)
    """References to `(aggregate) -> list[Kept]`, the files that an audit compares with the log."""
    open_files: LiteralString = ""
    """Pattern of artifacts of unfinished work. No event names them, and backups copy them first."""
    billing_handlers: tuple[str, ...] = ()
    """References to `(log) -> Handlers`, event handlers that the billing process runs."""
    charge_names: tuple[str, ...] = ()
    """References to `(connection, ids) -> dict[UUID, str]`, the names of what was charged."""
    dataset_users: tuple[str, ...] = ()
    """References to `(backend, caller, dataset_id)`, which refuse the deletion of a dataset in use.

    They raise WrongState.
    """
    dataset_work: tuple[str, ...] = ()
    """References to subclasses of `services.datasets.limited_work.LimitedWork`.

    The process `datasets` does their work.
    """
    dataset_warnings: tuple[str, ...] = ()
    """References to `(backend, account_id, dataset_id, validation_id) -> list[str]`.

    They return warnings about the datasets of a new job.
    """
    recorded_warnings: tuple[str, ...] = ()
    """References to `(connection, jobs) -> dict[UUID, list[str]]`, warnings about the datasets of
    jobs, by job ID."""
    endings: tuple[str, ...] = ()
    """References to `(log, connection, account_id)`, which end work before an account is erased.

    They raise WrongState if some of it still runs.
    """
    rights: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Rights on tables by role: `{"gateway": {"job_templates": "SELECT, INSERT"}}`."""
    events: Mapping[str, tuple[Kind, ...]] = field(default_factory=dict)
    """Events that a role may append, by role."""
    processes: Mapping[str, Process] = field(default_factory=dict)
    """Processes by name, which is also the name of their role."""
    settings: type[BaseSettings] | None = None
    """Settings of the extension. Their variables start with ECOLINK_. See `settings_of`.

    The model may extend `Settings`, whose fields then do not count as the extension's.
    """
    secrets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Roles that get a setting, by its name. All roles get the other settings."""
    limits: tuple[Limit, ...] = ()
    """Quotas and rates of accounts, for `backend.quotas`."""
    renewals: tuple[LiteralString, ...] = ()
    """Statements that replace secrets in the tables, for `ecolink security replace-secrets`."""
    api: tuple[str, ...] = ()
    """References to routers below /api."""
    pages: tuple[str, ...] = ()
    """References to routers of pages. Their templates are in the folder `templates`."""
    secret_paths: tuple[str, ...] = ()
    """Prefixes of paths whose rest is secret. It is neither logged nor traced."""
    panels: Mapping[str, Panel] = field(default_factory=dict)
    """Parts of pages of the core, by the name of the place. See docs/contribute/extending.md."""
    account_links: Mapping[str, str] = field(default_factory=dict)
    """Pages in the account menu, with their titles."""
    operator_tabs: Mapping[str, str] = field(default_factory=dict)
    """Pages below /ops, with their titles in the navigation."""
    launchers: Mapping[str, LauncherOf] = field(default_factory=dict)
    """Launchers of trainers, by value of ECOLINK_LAUNCHER."""
    payment_providers: Mapping[str, str] = field(default_factory=dict)
    """References to `() -> infrastructure.payments.provider.CardProvider`, by name."""
    billing_work: tuple[str, ...] = ()
    """References to `services.billing.app.AddedWork`, periodic work of the process `billing`."""
    job_forms: Mapping[str, JobForm] = field(default_factory=dict)
    """Sources of a filled job form, by query parameter of the wizard and option of the CLI."""
    integrations: str = ""
    """Reference to a `gateway.jobs.launch.integrations.Receiver` of the metrics of jobs."""
    commands: Mapping[str, str] = field(default_factory=dict)
    """References to groups of commands of account holders, by name. The core may have the group."""
    verify_export: str = ""
    """Reference to `(store, job_id, format, directory) -> list[Check]`, for exports."""
    operator_commands: tuple[str, ...] = ()
    """References to groups of commands on the host. The core may have the group."""

    @property
    def name(self) -> str:
        """Name of the extension's folder."""
        return self.package.removeprefix(f"{PACKAGE}.")

    @property
    def own_settings(self) -> dict[str, FieldInfo]:
        """Fields of the extension's own settings, by name."""
        fields = self.settings.model_fields if self.settings else {}
        return {name: each for name, each in fields.items() if name not in Settings.model_fields}

    @property
    def templates(self) -> Path:
        """Folder of the page templates."""
        return self._folder / "templates"

    @property
    def static(self) -> Path:
        """Folder of the styles and scripts."""
        return self._folder / "static"

    @property
    def _folder(self) -> Path:
        return Path(str(import_module(self.package).__file__)).parent

    def load(self, reference: str) -> Any:
        """Return the object that a reference names."""
        module, _, attribute = reference.partition(":")
        return getattr(import_module(f"{self.package}.{module}"), attribute)


@dataclass(frozen=True)
class JobForm:
    """References to functions that return the request of a job by an ID or a name."""

    page: str
    """`(backend, caller, id) -> JobRequest`, for the wizard."""
    command: str
    """`(client, name) -> JobRequest`, for `ecolink jobs launch`."""


@cache
def installed() -> tuple[Extension, ...]:
    """Return all extensions in the folder, by name.

    Their tables exist, and their events can be read, even if they are not selected. So an erasure,
    a backup, a replay and an audit include what they stored before.
    """
    return tuple(map(_declared, _folders()))


@cache
def selected() -> tuple[Extension, ...]:
    """Return the extensions in ECOLINK_EXTENSIONS, or all whose extra is installed, by name.

    Raise UnknownExtension if the variable names one that is not installed, and MissingExtra if its
    packages are not installed.
    """
    if SELECTION not in os.environ:
        return tuple(each for each in installed() if not missing(each.name))
    for each in wanted():
        require(each.name, f"The extension {each.name}")
    return wanted()


def wanted() -> tuple[Extension, ...]:
    """Return the extensions in ECOLINK_EXTENSIONS, or all that are installed, by name.

    Their packages may be missing. Raise UnknownExtension if the variable names an unknown one.
    """
    selection = os.environ.get(SELECTION)
    if selection is None:
        return installed()
    names = {each.strip() for each in selection.split(",") if each.strip()}
    known = [each.name for each in installed()]
    if unknown := sorted(names - set(known)):
        raise UnknownExtension(
            f"{SELECTION} names {unknown[0]!r}, which is not installed. Installed extensions: "
            f"{', '.join(known) or 'none'}."
        )
    return tuple(each for each in installed() if each.name in names)


def extension_tables() -> tuple[Table, ...]:
    """Return the tables of all installed extensions."""
    return tuple(table for extension in installed() for table in extension.tables)


def extension_folders() -> tuple[str, ...]:
    """Return the folders of all installed extensions in the artifact store."""
    return tuple(folder for extension in installed() for folder in extension.folders)


def signed_folders() -> tuple[str, ...]:
    """Return the folders of all installed extensions with documents that the sealer signs."""
    return tuple(folder for extension in installed() for folder in extension.signed_documents)


@cache
def aggregates() -> tuple[type[Aggregate], ...]:
    """Return all aggregates: those of the core, and those of installed extensions."""
    return (*AGGREGATES, *(each for one in installed() for each in one.aggregates))


def processes(extensions: tuple[Extension, ...]) -> dict[str, Process]:
    """Return the processes of extensions, by name."""
    return {name: each for extension in extensions for name, each in extension.processes.items()}


class UnknownExtension(ValueError):
    """ECOLINK_EXTENSIONS names an extension that is not installed."""


class InvalidSetting(ValueError):
    """A variable of an extension has an invalid value."""


def read_settings(extension: Extension, **values: Any) -> BaseSettings | None:
    """Return the settings of an extension from `values` and the variables of this process.

    Return None if it has none. Raise InvalidSetting, which names the variables.
    """
    try:
        return None if extension.settings is None else extension.settings(**values)
    except SettingsError as error:  # a variable that is not JSON
        raise InvalidSetting(f"Extension {extension.name}: {error}.") from error
    except ValidationError as error:
        problems = (
            " ".join((*(f"ECOLINK_{name}".upper() for name in each["loc"][:1]), each["msg"]))
            for each in error.errors(include_input=False)
        )
        raise InvalidSetting(f"Extension {extension.name}: {'; '.join(problems)}.") from error


def check_settings(settings: Settings) -> None:
    """Raise InvalidSetting if a variable of a selected extension or a limit is invalid.

    Raise MissingExtra if a variable is set for an extension whose packages are not installed.
    """
    for extension in wanted():
        if any(f"ECOLINK_{name}".upper() in os.environ for name in extension.own_settings):
            require(extension.name, f"The extension {extension.name}")
    for extension in selected():
        read_settings(extension)
    known = {**LIMITS, **{each.name: each for one in installed() for each in one.limits}}
    if unknown := sorted(settings.limits.keys() - known.keys()):
        raise InvalidSetting(
            f"ECOLINK_LIMITS has an unknown limit {unknown[0]!r}. Choose from {', '.join(known)}."
        )


def unknown_variables() -> list[str]:
    """Return a warning for each variable that starts with ECOLINK_ and is no setting."""
    fields = [*Settings.model_fields, *(name for one in installed() for name in one.own_settings)]
    given = {name[len(PREFIX) :] for name in map(str.upper, os.environ) if name.startswith(PREFIX)}
    warnings = []
    for name in sorted(given - set(map(str.upper, fields))):
        nearest = get_close_matches(name.lower(), fields, n=1)
        hint = f"Did you mean {PREFIX}{nearest[0].upper()}?" if nearest else "Unset it."
        warnings.append(f"{PREFIX}{name} is not a setting, and has no effect. {hint}")
    return warnings


def environment(role: str | None = None) -> dict[str, str]:
    """Return the variables of this process that extensions read, for its child processes.

    For a role, they contain no secrets of other roles.
    """
    found = dict[str, str]()
    for extension in selected():
        for name in extension.own_settings:
            variable = f"ECOLINK_{name}".upper()
            withheld = role is not None and role not in extension.secrets.get(name, (role,))
            if variable in os.environ and not withheld:
                found[variable] = os.environ[variable]
    return found


def loaded(references: Callable[[Extension], tuple[str, ...]]) -> Iterator[Any]:
    """Load the objects that the selected extensions declare in a field."""
    for extension in selected():
        for reference in references(extension):
            yield extension.load(reference)


def _folders() -> list[str]:
    try:
        package = import_module(PACKAGE)
    except ModuleNotFoundError:
        return []
    return sorted(each.name for each in iter_modules(package.__path__) if each.ispkg)


def _declared(name: str) -> Extension:
    extension = import_module(f"{PACKAGE}.{name}").EXTENSION
    assert isinstance(extension, Extension)
    return extension
