"""Exports that the read model lists as pending, in processes with resource limits."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg_pool import ConnectionPool

from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.jobs.documents import CARD, PROVENANCE
from extensions.exports.attempts import Attempts, Final, Repeated
from extensions.exports.domain.export import Export, ExportedFiles, ExportSource, ExportStatus
from extensions.exports.export_rows import Attempt, expired_exports, pending_exports
from extensions.exports.tables import delete_export_progress, set_export_progress
from infrastructure.artifacts.disk_cache import MODELS, delete_damaged, trim_copies
from infrastructure.artifacts.store import ArtifactCorrupt, Artifacts, Manifest
from infrastructure.base_models.licenses import fetch_licenses
from infrastructure.postgres.store import Connection
from infrastructure.process.clock import Clock
from infrastructure.process.fair_work import FairWork
from infrastructure.process.full_disk import require_space
from infrastructure.process.limited_process import Limits, run

WORKER = "extensions.exports.worker.write"

MOST_FAILURES = 3
"""Number of failed attempts after which an export fails."""

MIB = 1024**2
MEMORY_MIB = 8192
"""Memory limit, in addition to the files of the base model, which are mapped into memory."""

CPU_SECONDS, CPU_SECONDS_PER_MIB = 300, 1


@dataclass(frozen=True)
class Options:
    """Folders and limits of the exporter."""

    scratch: Path
    """Folder of running exports."""
    cache: Path
    """Cache of this machine, with copies of base models."""
    model_cache_bytes: int
    """Largest size of the copies of base models in the cache."""
    kept_free_bytes: int
    """Disk space to leave free."""
    kept_for: timedelta
    """Retention time of a finished export."""
    at_once: int = 1
    """Number of exports that run at the same time."""
    limits: Limits | None = None
    """Limits of the process that writes the files. By default, they grow with the base model."""


class Exports:
    """Runs the pending exports. Each writes to a folder of its own and then stores its files.

    After a crash, the next process deletes the folder and starts again. The same export gives the
    same files.
    """

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        artifacts: Artifacts,
        pool: ConnectionPool[Connection],
        options: Options,
    ) -> None:
        """Create the service. Delete what a killed process left in the scratch folder."""
        self._log = log
        self._clock = clock
        self._artifacts = artifacts
        self._pool = pool
        self._options = options
        self._logger = logging.getLogger("exports")
        self._attempts = Attempts[Attempt](MOST_FAILURES, self._logger)
        self.work = FairWork[Attempt]("exports", clock, options.at_once)
        shutil.rmtree(options.scratch, ignore_errors=True)

    def start_pending(self) -> None:
        """Start the oldest export of each account while threads are free."""
        with self._pool.connection() as connection:
            rows = pending_exports(connection, self.work.excluded)
        self.work.start_in_turn(
            {
                row["account_id"]: (
                    (row["export_id"], row["attempt"]),
                    partial(self.export, row["export_id"]),
                )
                for row in rows
            }
        )

    def expire(self) -> None:
        """End the exports whose retention time has ended."""
        now = self._clock.now()
        with self._pool.connection() as connection:
            ids = expired_exports(connection, now)
        for id in ids:
            self._change(id, "expire", lambda export: export.expire(now))

    def export(self, id: UUID) -> None:
        """Run an export. Record its files, or why there are none."""
        export = self._log.load(Export, id)
        if export.status is not ExportStatus.PENDING:
            return
        scratch, key = self._options.scratch / str(id), (id, export.attempt)
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            self._run(export, scratch)
        except Exception as error:
            failure = self._attempts.final(key, error)
            if failure is None:
                raise
            self._fail(export, failure)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            with self._pool.connection() as connection:
                delete_export_progress(connection, id)
        self._attempts.end(key)

    def _run(self, export: Export, scratch: Path) -> None:
        source = export.source
        base_manifest = self._require(source.base_ref, source.base_manifest_sha256, "base")
        manifest = self._require(source.adapter_ref, source.adapter_manifest_sha256, "adapter")
        self._require_space(base_manifest, manifest)
        adapter, out, licenses = (scratch / each for each in ("adapter", "out", "licenses"))
        out.mkdir()
        licenses.mkdir()
        fetch_licenses(self._artifacts, source.base_ref, licenses)
        self._fetch_adapter(source, manifest, adapter)
        answer = self._written(export, base_manifest, adapter, out)
        if "code" in answer:
            raise Final(answer["code"], answer["message"])
        stored = self._artifacts.take_directory(export.ref, out, answer["hashes"])
        files = ExportedFiles(
            ref=export.ref, manifest_sha256=stored.sha256, total_bytes=stored.total_bytes
        )
        expires_at = self._clock.now() + self._options.kept_for
        self._change(
            export.id,
            "complete",
            lambda found: found.complete(files, answer["libraries"], expires_at),
        )
        self._drop_unwanted(export.id, export.ref)

    def _written(
        self, export: Export, manifest: Manifest, adapter: Path, out: Path
    ) -> dict[str, Any]:
        """Write the files. If the base model in the cache is damaged, fetch it again once.

        Return the answer of the process that writes. Raise Final if the stored base model is
        missing or damaged, and Repeated if the new copy is damaged, too.
        """
        ref = export.source.base_ref
        for _ in range(2):
            base = self._local_base(ref)
            seen = base.stat()
            try:
                answer = self._process(export, manifest, base, adapter, out)
            finally:
                self._artifacts.release_directory(base)
                trim_copies(self._options.cache / MODELS, self._options.model_cache_bytes)
            if answer.get("code") != "base_damaged" or self._artifacts.root is not None:
                return answer
            self._logger.warning("deleting the copy of %s: %s", ref, answer["message"])
            delete_damaged(base, seen)
        raise Repeated("copy_damaged", f"Two copies of the base were damaged in the cache: {ref}")

    def _process(
        self, export: Export, manifest: Manifest, base: Path, adapter: Path, out: Path
    ) -> dict[str, Any]:
        """Run the process that writes the files. Return its answer."""
        total = 2 * manifest.total_bytes  # read once to verify, and once to merge
        request = {
            "base": str(base),
            "base_files": [each.model_dump() for each in manifest.files],
            "adapter": str(adapter),
            "licenses": str(adapter.with_name("licenses")),
            "out": str(out),
            "format": export.format,
            "model": export.model,
            "job_id": str(export.job_id),
            "source": export.source.model_dump(),
        }
        memory_mib = MEMORY_MIB + manifest.total_bytes // MIB
        limits = self._options.limits or Limits.for_file(
            manifest.total_bytes, CPU_SECONDS, CPU_SECONDS_PER_MIB, memory_mib
        )
        return run(WORKER, request, limits, partial(self._report, export, total))

    def _report(self, export: Export, total: int, progress: dict[str, int]) -> None:
        with self._pool.connection() as connection:
            done = min(progress["bytes"], total)
            set_export_progress(connection, export.id, done, total)
        if self._log.load(Export, export.id).status is not ExportStatus.PENDING:
            raise Final("deleted", "The export was deleted.")

    def _local_base(self, ref: str) -> Path:
        try:
            return self._artifacts.local_directory(ref, self._options.cache / MODELS)
        except FileNotFoundError as error:
            raise Final("base_missing", f"The base is missing: {ref}") from error
        except ArtifactCorrupt as error:
            raise Final("base_damaged", f"The base is damaged: {error}") from error

    def _fetch_adapter(self, source: ExportSource, manifest: Manifest, target: Path) -> None:
        """Copy the adapter, and the model card and provenance if its manifest has them."""
        try:
            self._artifacts.get_directory(source.adapter_ref, target)
        except ArtifactCorrupt as error:
            raise Final("adapter_damaged", "The adapter is damaged.") from error
        for name in (CARD, PROVENANCE):
            ref = f"{source.adapter_ref}/{name}"
            if not (target / name).exists() and self._artifacts.exists(ref):
                (target / name).write_bytes(self._artifacts.get_document(ref))

    def _require(self, ref: str, manifest_sha256: str, what: str) -> Manifest:
        try:
            manifest = self._artifacts.manifest(ref)
        except FileNotFoundError as error:
            raise Final(f"{what}_missing", f"The {what} is missing: {ref}") from error
        except ArtifactCorrupt as error:
            raise Final(f"{what}_damaged", f"The {what} is damaged: {ref}") from error
        if manifest.sha256 != manifest_sha256:
            raise Final(f"{what}_damaged", f"The {what} is damaged: {ref}")
        return manifest

    def _require_space(self, base: Manifest, adapter: Manifest) -> None:
        """Raise NoSpace unless the disks have space for the export and all that it copies."""
        needed = [(self._options.scratch, base.total_bytes + adapter.total_bytes)]
        copies = self._options.cache / MODELS
        if self._artifacts.root is None and not (copies / base.sha256).exists():
            copies.mkdir(parents=True, exist_ok=True)
            needed.append((copies, base.total_bytes))
        require_space(needed, self._options.kept_free_bytes)

    def _fail(self, export: Export, failure: Final) -> None:
        """Record a failure, unless the export was requested again. Delete the stored files."""
        code, message = failure.code, str(failure)
        self._logger.warning("export %s fails: %s %s", export.id, code, message)

        def change(found: Export) -> None:
            if found.attempt == export.attempt:
                found.fail(code, message)

        self._change(export.id, "fail", change)
        self._drop_unwanted(export.id, export.ref)

    def _drop_unwanted(self, id: UUID, ref: str) -> None:
        """Delete files that no event names, because the export failed or was deleted."""
        export = self._log.load(Export, id)
        if export.files is None or export.files.ref != ref:
            self._artifacts.delete_directory(ref)

    def _change(self, id: UUID, what: str, change: Callable[[Export], None]) -> None:
        def attempt() -> None:
            export = self._log.load(Export, id)
            command_id = f"{what}:{id}:{export.attempt}"
            with because(Cause("service:exporter", command_id, self._clock.now())):
                change(export)
                self._log.commit(export)

        self._log.retrying(attempt)
