"""The keys of a backup, in a directory of their own: the seal key, and secrets of webhooks.

Everything else that is secret, such as passwords and the keys of the bus, is made again by a
restore. The directory also has the hash of the manifest, so that a restore with the keys detects a
changed backup.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from extensions.backup.database import SECRETS
from extensions.backup.manifest import BackupManifest
from extensions.backup.target import BackupError, BackupTarget
from infrastructure.settings import Settings

SEAL_KEY, MANIFEST_HASH = "seal-key.pem", "manifest.sha256"


@dataclass(frozen=True)
class Keys:
    """The keys of one backup."""

    seal_key: bytes | None
    """PEM of the key that signs heads. None if the sealer has never run, or runs elsewhere."""

    secrets: dict[str, bytes] = field(default_factory=dict)
    """Rows of tables with secrets, compressed, by table."""

    manifest_sha256: str | None = None
    """Hash of the manifest. None before the backup is complete."""


def keys_of(settings: Settings, secrets: dict[str, bytes]) -> Keys:
    """Return the keys of a running EcoLink."""
    file = settings.seal_key_file
    return Keys(file.read_bytes() if file.exists() else None, secrets)


def require_apart(directory: Path, target: BackupTarget) -> None:
    """Raise BackupError if keys would be stored with the backup that they protect."""
    keys, backup = directory.expanduser().resolve(), target.directory
    if backup is not None and (keys.is_relative_to(backup) or backup.is_relative_to(keys)):
        raise BackupError(
            f"The directory of the keys, {keys}, and that of the backup, {backup}, contain each "
            "other. Store the keys elsewhere: anyone who has both can sign a changed log."
        )


def write_keys(directory: Path, backup_id: str, keys: Keys) -> Path:
    """Store the keys of a backup. Return their folder, which only this user can read."""
    folder = directory.expanduser().resolve() / backup_id
    folder.mkdir(mode=0o700, parents=True)
    found = {f"{table}.gz": rows for table, rows in keys.secrets.items()}
    if keys.seal_key is not None:
        found[SEAL_KEY] = keys.seal_key
    for name, content in found.items():
        path = folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)
    return folder


def write_manifest_hash(folder: Path, manifest: BackupManifest) -> None:
    """Store the hash of the manifest with the keys of its backup."""
    (folder / MANIFEST_HASH).write_text(f"{manifest.sha256}\n")


def read_keys(directory: Path, backup_id: str) -> Keys:
    """Return the keys of a backup. Raise BackupError if the directory does not have them."""
    folder = directory.expanduser().resolve() / backup_id
    if not folder.is_dir():
        raise BackupError(
            f"{directory} has no keys of the backup {backup_id}. Pass the directory that "
            "`ecolink backup create --keys-to` got."
        )
    key = folder / SEAL_KEY
    files = {table: folder / f"{table}.gz" for table in sorted(SECRETS)}
    secrets = {table: path.read_bytes() for table, path in files.items() if path.exists()}
    hash = folder / MANIFEST_HASH
    return Keys(
        key.read_bytes() if key.exists() else None,
        secrets,
        hash.read_text().strip() if hash.exists() else None,
    )
