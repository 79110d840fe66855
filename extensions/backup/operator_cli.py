"""`ecolink backup`, which copies all data to another place and restores it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import psycopg
import typer
from rich.console import Console
from rich.table import Table

from deploy.local.errors import StackError
from deploy.local.stack import stack
from deploy.operator.replay import moment_of
from domain.audit.tree_head import InvalidHead, LogKey
from extensions.backup import creating, restoring
from extensions.backup.keys import read_keys
from extensions.backup.manifest import BackupManifest
from extensions.backup.point_in_time import Moment
from extensions.backup.restoring import Restored, Source
from extensions.backup.stages import Stages
from extensions.backup.target import BackupError, BackupTarget
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import AsJson, fail
from infrastructure.artifacts.store import STORE_ERRORS
from infrastructure.extensions import selected
from infrastructure.postgres.log_identity import HELD, set_held
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings

commands = typer.Typer(
    name="backup", no_args_is_help=True, help="Back up all data, and restore it elsewhere."
)
console = Console(highlight=False, soft_wrap=True)

GIB, MIB = 1024**3, 1024**2

Address = Annotated[
    str, typer.Argument(metavar="TARGET", help="Directory, or an `s3://` URL.", show_default=False)
]
BackupId = Annotated[
    str | None,
    typer.Option("--backup", metavar="ID", help="ID of a backup. Default: the newest one."),
]


@commands.command()
def create(
    target: Address,
    keys_to: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Directory for the seal key and the secrets of webhooks. It must not be in the "
            "target. Without it, the backup has no keys.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Back up the database and the artifact store while EcoLink runs.

    Copies only what the target does not have yet. Exits with 1 if an artifact that the log names is
    missing or damaged; the backup is complete in all other parts.
    """
    with _errors(), stack(Settings(), services={}) as settings:
        opened = BackupTarget(target, create=True)
        request = creating.Request(opened, keys_to, datetime.now(UTC))
        made = creating.create(settings, request, Stages())
    if as_json:
        typer.echo(json.dumps(_summary(made), indent=1))
    else:
        console.print(
            f"[green]Backup {made.id} is complete:[/] {made.events:,} events, "
            f"{len(made.artifacts):,} files, {_size(made.total_bytes)}."
        )
        for each in made.missing:
            if each.deleted:
                console.print(f"Deleted while the backup was made: {each.path}", markup=False)
        if keys_to is None:
            console.print(
                "[yellow]The backup has no keys. After a restore without them, a new seal key "
                "begins a new archive of seals. Pass --keys-to.[/]"
            )
        elif not settings.seal_key_file.exists():
            console.print(
                f"[yellow]There is no seal key at {settings.seal_key_file}. If the sealer runs on "
                "another machine, copy its key there.[/]"
            )
    for each in made.damaged:
        Console(stderr=True, soft_wrap=True).print(each.text, style="red", markup=False)
    raise typer.Exit(ExitCode.FAILED if made.damaged else ExitCode.DONE)


@commands.command("list")
def list_backups(target: Address, as_json: AsJson = False) -> None:
    """List the complete backups in a target, oldest first."""
    with _errors():
        opened = BackupTarget(target)
        found = [opened.manifest(id) for id in opened.ids()]
    if as_json:
        typer.echo(json.dumps([_summary(each) for each in found], indent=1))
        return
    table = Table("id", "time (UTC)")
    for heading in ("events", "last event", "files", "size"):
        table.add_column(heading, justify="right")
    for each in found:
        table.add_row(
            each.id,
            f"{each.created_at:%Y-%m-%d %H:%M:%S}",
            f"{each.events:,}",
            f"{each.last_event:,}",
            f"{len(each.artifacts):,}",
            _size(each.total_bytes),
        )
    console.print(table)


@commands.command()
def verify(target: Address, backup: BackupId = None) -> None:
    """Read all contents of a backup and compare them with their hashes.

    Exits with 1 if one is missing or damaged. It does not compare the events with their seals,
    which `restore` does.
    """
    with _errors():
        opened = BackupTarget(target)
        manifest = opened.manifest(backup) if backup else opened.newest()
        problems = creating.verify(opened, manifest, Stages())
    for each in problems:
        console.print(each, style="red", markup=False)
    if problems:
        raise typer.Exit(ExitCode.FAILED)
    console.print(
        f"[green]All contents of {manifest.id} are unchanged:[/] {manifest.events:,} events, "
        f"{len(manifest.artifacts):,} files, {_size(manifest.total_bytes)}."
    )


@commands.command()
def restore(
    target: Address,
    backup: BackupId = None,
    keys: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Directory that `ecolink backup create --keys-to` got."),
    ] = None,
    until_event: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="ID",
            help="Notification ID of the last event to restore, with the rest of its save.",
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            parser=moment_of,
            metavar="TIME",
            help="Time of the last event to restore: a time with a time zone, or a UTC date.",
        ),
    ] = None,
    public_key: Annotated[
        str | None,
        typer.Option(help="Public key of the log, as `ecolink audit key` printed it once."),
    ] = None,
    skip_replay: Annotated[
        bool,
        typer.Option(
            "--skip-replay",
            help="Do not replay the log, which takes minutes for millions of events. Run `ecolink "
            "audit verify` later.",
        ),
    ] = False,
) -> None:
    """Restore a backup to a new ECOLINK_HOME, or to an empty database and artifact store.

    Then verifies the seals, replays the log, and reads all artifacts. The home exists only if
    nothing differs. Start EcoLink with `ecolink up` afterwards.
    """
    if until_event is not None and until is not None:
        fail("Pass --until-event or --until, not both.", ExitCode.USAGE)
    moment = Moment(until_event, until) if until_event or until else None
    settings = Settings()
    with _errors():
        opened = BackupTarget(target)
        manifest = opened.manifest(backup) if backup else opened.newest()
        source = Source(
            target=opened,
            manifest=manifest,
            keys=read_keys(keys, manifest.id) if keys else None,
            moment=moment,
            public_key=LogKey.parse(public_key) if public_key else None,
            replays=not skip_replay,
        )
        restored = restoring.restore(settings, source, Stages())
    _show(restored, manifest, settings, skip_replay=skip_replay)
    if skip_replay:
        console.print(
            "[yellow]The log was not replayed, so read models and balances are not verified. Run "
            "`ecolink audit verify`.[/]"
        )


@commands.command()
def confirm_restore() -> None:
    """Confirm that the original of a restored copy is gone, so that the copy sends what is pending.

    Until then it sends no webhooks, notices by e-mail and metrics of trackers, charges and refunds
    no cards, and pushes no models, because the original may still do so.
    """
    with _errors(), stack(Settings(), services={}) as settings, connect(settings) as store:
        set_held(store, False)
    console.print("[green]Confirmed. EcoLink sends what is pending.[/]")


@commands.command()
def prune(
    target: Address,
    keep: Annotated[int, typer.Option(min=1, help="Number of backups to keep.")],
) -> None:
    """Delete all but the newest backups, and the contents that no backup needs any more."""
    with _errors():
        ids, contents, size = creating.prune(BackupTarget(target), keep)
    for id in ids:
        console.print(f"Deleted {id}.")
    console.print(f"Deleted {len(ids):,} backups and {contents:,} contents, {_size(size)}.")


@contextmanager
def _errors() -> Iterator[None]:
    """Print an error of the block and exit with 1."""
    try:
        yield
    except (BackupError, StackError, InvalidHead, ValueError) as error:
        fail(str(error), ExitCode.FAILED)
    except psycopg.errors.InsufficientPrivilege as error:
        fail(
            f"{error.diag.message_primary}. Set ECOLINK_OWNER_DATABASE_URL to the owner of the "
            "tables.",
            ExitCode.FAILED,
        )
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        fail(
            f"{error.filename}: {error.strerror}. Choose a directory that this user may write.",
            ExitCode.FAILED,
        )
    except (psycopg.Error, *STORE_ERRORS) as error:
        fail(f"{type(error).__name__}: {error}", ExitCode.FAILED)


def _show(
    restored: Restored, manifest: BackupManifest, settings: Settings, *, skip_replay: bool
) -> None:
    console.print(
        f"[green]Restored {restored.events:,} events of the backup {manifest.id}, up to event "
        f"{restored.last_event:,}.[/]"
    )
    console.print(
        f"Verified: {restored.sealed_events:,} events match their seals, and all artifacts match "
        "the log" + ("." if skip_replay else ", as do all read models and balances.")
    )
    if not restored.sealed_events:
        console.print("[yellow]No event was compared with a seal, so nothing is proven.[/]")
    for each in restored.missing:
        console.print(f"Missing: {each}.", style="yellow", markup=False)
    if restored.aside is not None:
        console.print(
            f"The folder {restored.aside} of the artifact store has the seals that the log does "
            "not continue. Keep it as evidence."
        )
    if not restored.has_seal_key:
        console.print(
            "[yellow]The seal key was not restored. The sealer makes a new one, and seals the log "
            "from its first event. Give auditors the new `ecolink audit key`.[/]"
        )
    for account_id in restored.erased_later:
        console.print(
            f"[yellow]The personal data of account {account_id} was erased after the restored "
            f"events. Run `ecolink accounts erase {account_id}` again.[/]"
        )
    if any(each.payment_providers for each in selected()):
        console.print("For card payments, run `ecolink accounts recover-payments --since TIME`.")
    console.print(HELD, style="yellow", markup=False)
    if settings.database_url is None:
        console.print(f"Start EcoLink: ECOLINK_HOME={settings.home} ecolink up", markup=False)


def _summary(manifest: BackupManifest) -> dict[str, object]:
    return {
        "id": manifest.id,
        "created_at": manifest.created_at.isoformat(),
        "version": manifest.version,
        "log_id": str(manifest.log_id),
        "events": manifest.events,
        "last_event": manifest.last_event,
        "files": len(manifest.artifacts),
        "bytes": manifest.total_bytes,
        "missing": [each.model_dump() for each in manifest.missing],
    }


def _size(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"
