"""`ecolink audit`, which verifies that all stored data agrees with the event log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from cryptography.x509 import load_pem_x509_certificates
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from deploy.local.errors import StackError
from deploy.local.stack import database
from domain.audit.tree_head import InvalidHead, LogKey
from domain.core.money import exact_dollars
from gateway.cli.exits import ExitCode
from gateway.cli.terminal import AsJson, fail
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import Connection, connect, open_log
from infrastructure.seals.archive import SealArchive, load_key, origin_of
from infrastructure.seals.verifications import Verdict
from infrastructure.settings import Settings
from services.auditor.report import Circumstances, KeySource, Results, report
from services.projector.artifact_check import ArtifactFindings, check_artifacts
from services.projector.audit import Findings, audit
from services.projector.store_checks import head_of
from services.sealer.verification import SealFindings, Trust, verify_seals

commands = typer.Typer(
    name="audit", help="Verify the event log, show the past, and explain events and invoices."
)

KeptHeads = Annotated[
    list[Path] | None,
    typer.Option(
        "--kept-head",
        exists=True,
        dir_okay=False,
        help="File with a signed head that you kept from an earlier audit. Repeatable.",
    ),
]
PublicKey = Annotated[
    str | None,
    typer.Option(
        help="Public key of the log, as `ecolink audit key` printed it once. Without it, the "
        "command trusts the key file on this machine."
    ),
]
Certificates = Annotated[
    Path | None,
    typer.Option(
        "--timestamp-roots",
        exists=True,
        dir_okay=False,
        help="File with the root certificates of the timestamp authority (PEM). Verifies the "
        "timestamps of heads.",
    ),
]
Since = Annotated[
    int,
    typer.Option(
        min=0,
        help="Notification ID. Compares only later events with their seals.",
    ),
]
LogOnly = Annotated[
    bool, typer.Option("--log-only", help="Verify the seals. Do not replay the log.")
]
WithArtifacts = Annotated[
    bool,
    typer.Option(
        "--artifacts",
        help="Also read all datasets, base models, checkpoints and adapters, and compare their "
        "hashes with the log.",
    ),
]

EXITS = {
    Verdict.MATCHES: ExitCode.DONE,
    Verdict.DIFFERS: ExitCode.FAILED,
    Verdict.PARTIAL: ExitCode.NOT_PROVEN,
    Verdict.NOT_PROVEN: ExitCode.NOT_PROVEN,
}


@commands.command()
def verify(
    kept_head: KeptHeads = None,
    public_key: PublicKey = None,
    timestamp_roots: Certificates = None,
    since: Since = 0,
    log_only: LogOnly = False,
    with_artifacts: WithArtifacts = False,
    as_json: AsJson = False,
) -> None:
    """Verify the event log with its seals, then replay it and compare all stored data.

    Names each event that an attacker changed, deleted or inserted since EcoLink sealed it. Compares
    projections, balances, snapshots, consumer positions, reported times and losses with the
    replayed events. Exits with 1 if anything differs, with 9 if nothing differs but a part of the
    log was not compared with seals, and with 130 after Ctrl-C. `--since` continues an interrupted
    verification.
    """
    started_at = datetime.now(UTC)
    try:
        with database(Settings()) as settings:
            trust = _Trusted(public_key, kept_head, timestamp_roots).of(settings)
            seals = _verify_seals(settings, trust, since)
            if not as_json:  # before anything else can fail
                _show_seals(seals)
            findings = None if log_only else _replay(settings)
            stored = _check_artifacts(settings) if with_artifacts else None
    except (StackError, ValueError, InvalidHead) as error:
        fail(str(error), ExitCode.FAILED)
    results = Results(seals, findings, stored)
    if as_json:
        source = KeySource.GIVEN if public_key else KeySource.KEY_FILE
        circumstances = Circumstances(trust, source, since, started_at, datetime.now(UTC))
        typer.echo(json.dumps(report(results, circumstances), default=str, indent=1))
    else:
        if findings is not None:
            _show(findings)
        if stored is not None:
            _show_artifacts(stored)
    raise typer.Exit(EXITS[results.verdict])


@commands.command()
def key() -> None:
    """Print the public key that verifies the log's heads. Auditors keep it outside EcoLink."""
    try:
        with database(Settings()) as settings, connect(settings) as store:
            typer.echo(str(own_key(settings, store)))
    except (StackError, ValueError) as error:
        fail(str(error), ExitCode.FAILED)


def own_key(settings: Settings, store: Connection) -> LogKey:
    """Return the public key of this machine's key file. Raise ValueError if there is none."""
    try:
        private = load_key(settings.seal_key_file)
    except FileNotFoundError as error:
        raise ValueError(
            f"There is no key file {settings.seal_key_file}. The sealer makes it at its first "
            "start. To verify on another machine, pass --public-key."
        ) from error
    return LogKey(origin_of(log_identity(store)), private.public_key())


@dataclass(frozen=True)
class _Trusted:
    """The options that name what an auditor trusts."""

    public_key: str | None
    kept_heads: list[Path] | None
    timestamp_roots: Path | None

    def of(self, settings: Settings) -> Trust:
        """Read the files. Raise ValueError or InvalidHead."""
        if self.public_key:
            key = LogKey.parse(self.public_key)
        else:
            with connect(settings) as store:
                key = own_key(settings, store)
        heads = [key.verify(path.read_text()) for path in self.kept_heads or []]
        roots = []
        if self.timestamp_roots is not None:
            try:
                roots = load_pem_x509_certificates(self.timestamp_roots.read_bytes())
            except ValueError as error:
                raise ValueError(
                    f"{self.timestamp_roots} contains no certificate in PEM format. Pass the root "
                    "certificate of the timestamp authority."
                ) from error
        return Trust(key, heads, roots)


@contextmanager
def _progress(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal. Yield a function that takes how much is done."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=total)
        yield lambda done: progress.update(task, completed=done)


def _verify_seals(settings: Settings, trust: Trust, since: int) -> SealFindings:
    """Verify the seals and show the progress on a terminal."""
    found = SealFindings()
    with connect(settings) as store:
        total = max(0, head_of(store) - since)
        try:
            with _progress("Comparing events with their seals", total) as show:
                archive = SealArchive(Artifacts(settings.artifacts))
                return verify_seals(
                    store, archive, trust, since, lambda id: show(id - since), found
                )
        except KeyboardInterrupt:
            console = Console(stderr=True)
            _show_differences(console, found)  # a continued verification does not repeat them
            console.print(
                f"{Results(found, None, None, stopped=True).summary} Continue with "
                f"--since {found.position}."
            )
            raise typer.Exit(ExitCode.INTERRUPTED) from None


def _replay(settings: Settings) -> Findings:
    """Replay the log and show the progress on a terminal."""
    with connect(settings) as store:
        total = head_of(store)
    with _progress("Replaying events", total) as show:
        return audit(settings, show)


def _check_artifacts(settings: Settings) -> ArtifactFindings:
    """Compare the artifacts with the log, and show the progress on a terminal."""
    console = Console(stderr=True)
    log = open_log(settings)
    try:
        with connect(settings) as store, console.status("Reading artifacts") as status:

            def show(found: ArtifactFindings) -> None:
                status.update(f"Reading artifacts: {found.files:,} files")

            return check_artifacts(store, log, Artifacts(settings.artifacts), show)
    finally:
        log.close()


def _show_artifacts(found: ArtifactFindings) -> None:
    console = Console()
    console.print(
        f"Compared with the log: artifacts {found.artifacts:,}, files {found.files:,}, "
        f"{found.total_bytes / 1024**3:.2f} GiB."
    )
    for each in found.differences:
        console.print(f"[red]{each.text}[/]")
    if not found.differences:
        console.print("[green]All artifacts match the log.[/]")


def _show_seals(seals: SealFindings) -> None:
    console = Console()
    if seals.head is not None:
        console.print(
            f"Compared with the seals: events {seals.events:,}, signed heads {seals.heads:,}. "
            f"Last head: {seals.head.sealed_at:%Y-%m-%d %H:%M:%S} UTC, "
            f"root {seals.head.root.hex()}."
        )
    if seals.timestamps:
        first, newest = seals.timestamps[0], seals.timestamps[-1]
        console.print(
            f"Valid timestamps: {len(seals.timestamps):,}, from {first.time:%Y-%m-%d %H:%M:%S} UTC "
            f"({first.size:,} events) to {newest.time:%Y-%m-%d %H:%M:%S} UTC "
            f"({newest.size:,} events)."
        )
    _show_differences(console, seals)
    results = Results(seals, None, None)
    color = {Verdict.MATCHES: "green", Verdict.DIFFERS: "red"}.get(results.verdict, "yellow")
    console.print(f"[{color}]{results.summary}[/]")


def _show_differences(console: Console, seals: SealFindings) -> None:
    for each in seals.differences:
        console.print(f"[red]{each.text}[/]")
    if unlisted := sum(seals.counts.values()) - len(seals.differences):
        console.print(f"[red]{unlisted:,} more differences are not listed.[/]")


def _show(findings: Findings) -> None:
    console = Console()
    table = Table(
        title=(f"Replayed events: {findings.events:,}, up to notification {findings.head:,}")
    )
    for column in ("table", "at", "behind", "rows", "live", "replayed", ""):
        number = column in ("at", "behind", "rows")
        table.add_column(column, justify="right" if number else "left")
    for each in findings.tables:
        table.add_row(
            each.table,
            str(each.position),
            str(each.lag),
            str(each.live.rows),
            each.live.sha256[:12],
            each.refolded.sha256[:12],
            "[green]equal[/]" if each.equal else "[red]DIFFERS[/]",
        )
    console.print(table)
    console.print(
        f"Compared with the replay: accounts {findings.accounts:,}, meters {findings.meters:,}, "
        f"billed minutes {findings.minutes:,}, snapshots {findings.snapshots:,}. "
        f"Trial balance: {exact_dollars(findings.trial_balance_micros)}."
    )
    if outdated := findings.outdated_snapshots:
        console.print(
            f"Outdated snapshots: {outdated:,}. An earlier version of EcoLink created them. "
            "EcoLink loads the events instead, and then stores new snapshots."
        )
    for difference in findings.differences:
        console.print(f"[red]{difference.text}[/]")
    if not findings.differences:
        console.print("[green]Nothing differs from the event log.[/]")
