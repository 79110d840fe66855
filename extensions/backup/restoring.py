"""Restoring a backup to an empty home or database, and verifying it before anything serves it."""

from __future__ import annotations

import asyncio
import shutil
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from deploy.local.stack import stack, state, up
from deploy.migrate import migrate
from domain.audit.tree_head import LogKey
from domain.core.event_format import NewerFormat
from extensions.backup import point_in_time
from extensions.backup.artifact_files import (
    DOCUMENTS,
    Named,
    is_open_file,
    named_artifacts,
    require_empty_store,
)
from extensions.backup.database import (
    continue_ids,
    load,
    load_secrets,
    owner_url,
    require_empty,
    shapes,
)
from extensions.backup.keys import Keys
from extensions.backup.manifest import ArtifactFile, BackupManifest
from extensions.backup.point_in_time import Moment
from extensions.backup.stages import Stages, counted
from extensions.backup.target import BackupError, BackupTarget
from infrastructure.accounts.personal_data import delete_personal_data, erased_accounts
from infrastructure.artifacts.object_stores import PATIENT_SECONDS
from infrastructure.artifacts.store import MANIFEST, Artifacts
from infrastructure.postgres.format_in_use import format_in_use
from infrastructure.postgres.log_identity import set_held
from infrastructure.postgres.store import Connection, connect, connect_to, open_log, scalar
from infrastructure.seals.archive import (
    SEALS,
    LastHead,
    SealArchive,
    SealDamaged,
    load_key,
    origin_of,
)
from infrastructure.settings import Settings
from projections import PROJECTIONS
from projections.rebuilding import rebuild
from services.projector.artifact_check import check_artifacts
from services.projector.audit import audit
from services.projector.store_checks import head_of
from services.sealer.verification import TamperKind, Trust, verify_seals

ASIDE = "seals-before-restore"
"""Folder of the artifact store for seals that the restored log does not continue."""

SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Source:
    """A backup to restore, its keys, and the moment. Without a moment, all of it is restored."""

    target: BackupTarget
    manifest: BackupManifest
    keys: Keys | None = None
    moment: Moment | None = None
    public_key: LogKey | None = None
    """Key that an auditor kept. Without it, the seals are verified with the keys' or their own."""

    replays: bool = True
    """False if the operator replays the log later, which takes minutes for millions of events."""


@dataclass(frozen=True)
class Restored:
    """A restored and verified EcoLink."""

    events: int
    last_event: int
    sealed_events: int
    """Events that were compared with their seals. 0: no seal proves anything."""

    missing: list[str]
    """Artifacts that the log names but the backup does not have."""

    aside: str | None
    """Folder of the artifact store with the seals that the log does not continue."""

    has_seal_key: bool

    erased_later: list[UUID]
    """Accounts that were erased after the event to which the log was cut."""


def restore(settings: Settings, source: Source, stages: Stages) -> Restored:
    """Restore a backup and verify it. Raise BackupError or StackError.

    The embedded servers work in a directory beside the home, which becomes the home at the end.
    """
    if settings.database_url is not None:
        url = owner_url(settings)
        with connect_to(url) as store:
            require_empty(store, "The database")
        with stack(settings, {}) as filled:
            migrate(filled)
            return restore_into(filled, source, stages)
    home = settings.home.expanduser().resolve()
    if home.exists() and any(home.iterdir()):
        raise BackupError(
            f"ECOLINK_HOME, {home}, is not empty, and a restore never replaces data. Set another "
            "ECOLINK_HOME, or move the directory away."
        )
    work = home.with_name(f"{home.name}.restoring")
    if state(work) is not None:
        raise BackupError(f"Another restore works in {work}. Wait until it ends.")
    shutil.rmtree(work, ignore_errors=True)  # of a restore that failed
    with up(settings.model_copy(update={"home": work}), {}) as started:
        restored = restore_into(started.settings, source, stages)
    try:
        work.rename(home)
    except OSError as error:
        raise BackupError(
            f"The restored home {work} is complete, but cannot be renamed to {home}: "
            f"{error.strerror}. Rename it, or set ECOLINK_HOME to it."
        ) from error
    return restored


def restore_into(settings: Settings, source: Source, stages: Stages) -> Restored:
    """Restore a backup to a migrated database and an artifact store that are both empty.

    The seals of the whole backup are compared with its events before anything is cut or committed.
    """
    manifest = source.manifest
    artifacts = Artifacts(settings.artifacts, patience_seconds=PATIENT_SECONDS)
    known = source.keys.manifest_sha256 if source.keys else None
    if known not in (None, manifest.sha256):
        raise BackupError(
            f"The manifest of {manifest.id} is not the one that was stored with its keys: someone "
            "changed it. Use another backup."
        )
    require_empty_store(artifacts, settings.artifacts)
    has_seal_key = _write_seal_key(settings.seal_key_file, source.keys)
    url = owner_url(settings)
    with connect_to(url) as store:
        require_empty(store, "The database")
        with stages.stage("Restoring seals"):
            _put_all(source, artifacts, SEALS)
        key = _public_key(settings, source, artifacts)
        copied = source.moment is None and manifest.shapes == shapes(store)
        with store.transaction():
            with stages.stage("Loading the database") as progress:
                load(store, source.target, manifest, progress, read_models=copied)
                load_secrets(store, source.keys.secrets if source.keys else {})
                set_held(store, True)
                _require_readable(store, manifest)
                continue_ids(store, manifest.last_event)
            sealed = _verify_seals(store, artifacts, key, stages)
            erased = erased_accounts(store)
            if source.moment is not None:
                with stages.stage("Cutting the log"):
                    point_in_time.cut(store, point_in_time.last_event_at(store, source.moment))
        store.execute("ANALYZE")
        last_event, is_cut = head_of(store), head_of(store) < manifest.last_event
        events = scalar(store, "SELECT count(*) FROM ecolink_events")
        if not copied:
            with stages.stage("Rebuilding read models") as progress:
                rebuild(url, PROJECTIONS, progress)
        if is_cut:
            point_in_time.trim_evidence(store)
        with open_log(settings) as log:
            named = list(named_artifacts(store, log))
        chosen, missing = _chosen(manifest.artifacts, named)
        if not is_cut:
            _require_known(missing, manifest)
        with stages.stage("Restoring artifacts") as progress:
            for file in counted(chosen, progress):
                _put(artifacts, file.path, file, source.target)
        still_erased = erased_accounts(store)
        if still_erased:  # the backup may have been made during an erasure
            with stages.stage("Repeating erasures"):
                for account_id in still_erased:
                    delete_personal_data(store, artifacts, account_id)
        aside = _continue_seals(settings, source, artifacts, key, last_event)
        if is_cut:
            _verify_seals(store, artifacts, key, stages)
    _verify(settings, stages, {each.kept.ref for each in missing}, replays=source.replays)
    return Restored(
        events=events,
        last_event=last_event,
        sealed_events=min(sealed, events),
        missing=[_missing_text(each, manifest) for each in missing],
        aside=aside,
        has_seal_key=has_seal_key,
        erased_later=sorted(erased - still_erased),
    )


def _require_readable(store: Connection, manifest: BackupManifest) -> None:
    """Raise BackupError if the events of a backup need a newer version of EcoLink."""
    try:
        format_in_use(store)
    except NewerFormat as error:
        raise BackupError(f"The backup {manifest.id} is of a newer EcoLink. {error}") from error


def _write_seal_key(path: Path, keys: Keys | None) -> bool:
    """Write the seal key to its file. Return True if the file has the key of the log."""
    if keys is None or keys.seal_key is None:
        return False
    if path.exists():
        if path.read_bytes() != keys.seal_key:
            raise BackupError(
                f"{path} has another key than the backup. Move the file away, or set "
                "ECOLINK_SEAL_KEY to a new file."
            )
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(keys.seal_key)
    return True


def _chosen(
    files: Iterable[ArtifactFile], named: Iterable[Named]
) -> tuple[list[ArtifactFile], list[Named]]:
    """Return the files of artifacts that the log names, other documents, and what is missing."""
    found = {each.path: each for each in files}
    paths = sorted(found)
    chosen = {
        path: found[path] for path in paths if DOCUMENTS.fullmatch(path) or is_open_file(path)
    }
    missing: list[Named] = []
    for each in named:
        ref = each.kept.ref
        if not each.kept.is_directory:
            if ref in found:
                chosen[ref] = found[ref]
            else:
                missing.append(each)
            continue
        if f"{ref}/{MANIFEST}" not in found:
            missing.append(each)
            continue
        start = bisect_left(paths, f"{ref}/")
        while start < len(paths) and paths[start].startswith(f"{ref}/"):
            chosen[paths[start]] = found[paths[start]]
            start += 1
    return list(chosen.values()), missing


def _require_known(missing: Iterable[Named], manifest: BackupManifest) -> None:
    """Raise BackupError if the manifest lacks an artifact that it does not name as missing.

    The log of a backup names only artifacts that existed then. A cut log can name deleted ones.
    """
    known = {each.path for each in manifest.missing}
    if lost := [each.kept.ref for each in missing if each.kept.ref not in known]:
        raise BackupError(
            f"The manifest of {manifest.id} lacks {len(lost)} artifacts that the log names, such "
            f"as {lost[0]}. The manifest was changed or damaged. Use another backup."
        )


def _missing_text(each: Named, manifest: BackupManifest) -> str:
    known = {one.path: one for one in manifest.missing}.get(each.kept.ref)
    if known is not None and not known.deleted:
        return f"{known.text} when the backup was made"
    when = "while the backup was made" if known else "before the backup"
    return f"{each.kind.__name__} {each.id}: EcoLink deleted {each.kept.ref} {when}"


def _put(artifacts: Artifacts, ref: str, file: ArtifactFile, target: BackupTarget) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for chunk in target.read(file):
            yield chunk

    asyncio.run(artifacts.put_stream(ref, chunks(), file.bytes))


def _put_all(source: Source, artifacts: Artifacts, folder: str) -> None:
    """Restore the seals of the backup to a folder that ends with their own."""
    for file in source.manifest.artifacts:
        if file.path.startswith(f"{SEALS}/"):
            ref = f"{folder}/{file.path.removeprefix(f'{SEALS}/')}"
            _put(artifacts, ref, file, source.target)


def _continue_seals(
    settings: Settings,
    source: Source,
    artifacts: Artifacts,
    key: LogKey | None,
    last_event: int,
) -> str | None:
    """Prepare the seals for the sealer. Return the folder of those it does not continue, or None.

    Without the private key, the sealer continues none.
    """
    archive, folder = SealArchive(artifacts), f"{ASIDE}/{source.manifest.id}"
    if not settings.seal_key_file.exists() or key is None:
        _put_all(source, artifacts, f"{folder}/{SEALS}")
        for ref in artifacts.list(SEALS):
            artifacts.delete(ref)
        return folder if artifacts.list(folder) else None
    aside = None
    if any(head.last_event > last_event for head in archive.heads(key)):
        _put_all(source, artifacts, f"{folder}/{SEALS}")
        archive.cut(key, last_event)
        aside = folder
    if (note := archive.last_note(key)) is not None:
        LastHead.beside(settings.seal_key_file).write(note)
    return aside


def _public_key(settings: Settings, source: Source, artifacts: Artifacts) -> LogKey | None:
    """Return the key that verifies the seals, or None if there is none."""
    if source.public_key is not None:
        return source.public_key
    if source.keys is not None and source.keys.seal_key is not None:
        private = load_key(settings.seal_key_file)
        return LogKey(origin_of(source.manifest.log_id), private.public_key())
    try:
        return SealArchive(artifacts).public_key()
    except SealDamaged as error:
        raise BackupError(f"The seals of the backup are damaged: {error}") from error


def _verify_seals(
    store: Connection, artifacts: Artifacts, key: LogKey | None, stages: Stages
) -> int:
    """Compare the events with their seals. Return the number of compared events.

    Raise BackupError if they differ. Newer events without a head are no difference.
    """
    if key is None:
        return 0
    last = head_of(store)
    with stages.stage("Comparing events with their seals") as progress:
        found = verify_seals(
            store, SealArchive(artifacts), Trust(key), 0, lambda id: progress(id, last)
        )
    _require_none(each.text for each in found.differences if each.kind is not TamperKind.NOT_SEALED)
    return found.events


def _verify(settings: Settings, stages: Stages, missing: set[str], *, replays: bool) -> None:
    """Read all artifacts, and replay the log. Raise BackupError if anything differs."""
    artifacts = Artifacts(settings.artifacts, patience_seconds=PATIENT_SECONDS)
    with connect(settings) as store, open_log(settings) as log:
        last = head_of(store)
        with stages.stage("Verifying artifacts"):
            stored = check_artifacts(store, log, artifacts)
        _require_none(
            each.text for each in stored.differences if not any(ref in each.text for ref in missing)
        )
        if replays:
            with stages.stage("Replaying events") as progress:
                replay = audit(settings, lambda id: progress(id, last))
            _require_none(each.text for each in replay.differences)


def _require_none(differences: Iterable[str]) -> None:
    """Raise BackupError if there are differences."""
    found = list(differences)
    if found:
        more = len(found) - SHOWN_PROBLEMS
        raise BackupError(
            "The restored data differs from its log. Do not start EcoLink with it.\n"
            + "\n".join(found[:SHOWN_PROBLEMS])
            + (f"\n{more} more differences are not listed." if more > 0 else "")
        )
