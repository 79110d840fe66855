"""Pushes of exports to a hub, which the read model lists as pending."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg_pool import ConnectionPool

from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.jobs.documents import PROVENANCE
from extensions.exports.attempts import Attempts, Final, Repeated
from extensions.exports.domain.hub_push import HubPush, PushStatus
from extensions.exports.push_rows import pending_pushes
from extensions.exports.tables import (
    delete_token,
    set_outcome,
    set_pushed_bytes,
    stored_tokens,
    target_of,
)
from infrastructure.artifacts.store import ArtifactCorrupt, Artifacts
from infrastructure.postgres.log_identity import is_held
from infrastructure.postgres.store import Connection
from infrastructure.process.clock import Clock
from infrastructure.process.fair_work import FairWork
from infrastructure.process.full_disk import require_space
from infrastructure.process.limited_process import Limits, run

WORKER = "extensions.exports.worker.hub"
LIMITS = Limits(cpu_seconds=3600, wall_seconds=6 * 3600, memory_mib=2048)
"""Limits of the process that uploads. A large model takes hours over a slow line."""

MOST_FAILURES = 5
"""Number of failed attempts after which a push fails."""

UNRECORDED = timedelta(hours=1)
"""Age of a token after which its push will not be recorded any more."""


@dataclass(frozen=True)
class Options:
    """Hub, folder and limits of the pushes."""

    endpoint: str | None
    """URL of the hub. Without it, pushes fail."""
    scratch: Path
    """Folder of the files of running pushes, if the store is remote."""
    kept_free_bytes: int
    """Disk space to leave free."""
    at_once: int
    """Number of pushes that run at the same time, each of another account."""
    limits: Limits = LIMITS
    """Limits of the process that uploads."""


class Pushes:
    """Runs the pending pushes. A repeated attempt skips the files that the hub has."""

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
        self._logger = logging.getLogger("pushes")
        self._attempts = Attempts[UUID](MOST_FAILURES, self._logger)
        self.work = FairWork[UUID]("pushes", clock, options.at_once)
        shutil.rmtree(options.scratch, ignore_errors=True)

    def start_pending(self) -> None:
        """Start the oldest push of each account while threads are free."""
        with self._pool.connection() as connection:
            rows = pending_pushes(connection, self.work.excluded)
            rows = [] if rows and is_held(connection) else rows
        self.work.start_in_turn(
            {
                row["account_id"]: (row["push_id"], partial(self.push, row["push_id"]))
                for row in rows
            }
        )

    def delete_tokens(self) -> None:
        """Delete tokens that a crash left behind: of ended pushes, and of unrecorded ones."""
        unrecorded = self._clock.now() - UNRECORDED
        with self._pool.connection() as connection:
            for id, requested_at in stored_tokens(connection).items():
                push = self._log.find(HubPush, id)
                if push is None:
                    is_left = requested_at < unrecorded
                else:
                    is_left = push.status is not PushStatus.PENDING
                if is_left:
                    delete_token(connection, id)

    def push(self, id: UUID) -> None:
        """Run a push. Record the commit, or why there is none."""
        push = self._log.load(HubPush, id)
        if push.status is not PushStatus.PENDING:
            return
        scratch = self._options.scratch / str(id)
        try:
            commit = self._commit(push, scratch)
        except Exception as error:
            failure = self._attempts.final(id, error)
            if failure is None:
                self._explain(id, error)
                raise
            self._fail(id, failure.code, str(failure))
        else:
            self._end(id, lambda found: found.complete(commit["commit"]), url=commit["url"])
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self._attempts.end(id)

    def _commit(self, push: HubPush, scratch: Path) -> dict[str, Any]:
        with self._pool.connection() as connection:
            target = target_of(connection, push.id)
        if target is None or target.token is None:
            raise Final("token_lost", "EcoLink no longer has the token.")
        if self._options.endpoint is None:
            raise Final("disabled", "Your operator disabled pushes to a hub.")
        directory = self._files(push, scratch)
        manifest = self._artifacts.manifest(push.files.ref)
        done = 0

        def on_bytes(count: int) -> None:
            nonlocal done
            done += count
            with self._pool.connection() as connection:
                set_pushed_bytes(connection, push.id, done)
            if self._log.load(HubPush, push.id).status is not PushStatus.PENDING:
                raise Final("stopped", "The account holder stopped the push.")

        answer = run(
            WORKER,
            {
                "endpoint": self._options.endpoint,
                "token": target.token,
                "repository": target.repository,
                "private": target.private,
                "directory": str(directory),
                "paths": [
                    each.path
                    for each in manifest.files
                    if target.provenance or each.path != PROVENANCE
                ],
            },
            self._options.limits,
            lambda progress: on_bytes(progress["bytes"]),
        )
        if "code" in answer:
            failure = Final if answer["final"] else Repeated
            raise failure(answer["code"], answer["message"])
        return answer

    def _files(self, push: HubPush, scratch: Path) -> Path:
        """Return a directory with the files of the export.

        Raise Final if they are gone, and NoSpace if the disk lacks space for a copy.
        """
        ref = push.files.ref
        try:
            if self._artifacts.manifest(ref).sha256 != push.files.manifest_sha256:
                raise ArtifactCorrupt(ref)
            if self._artifacts.root is not None:
                return self._artifacts.root / ref
            scratch.mkdir(parents=True)
            needed = [(scratch, push.files.total_bytes)]
            require_space(needed, self._options.kept_free_bytes)
            self._artifacts.get_directory(ref, scratch)
        except (FileNotFoundError, ArtifactCorrupt) as error:
            raise Final("export_deleted", "The export was deleted meanwhile.") from error
        return scratch

    def _explain(self, id: UUID, error: Exception) -> None:
        """Store why an attempt failed, for the account holder. Another attempt follows."""
        message = str(error) if isinstance(error, Repeated) else "EcoLink could not push the files."
        with suppress(psycopg.Error), self._pool.connection() as connection:
            set_outcome(connection, id, message=message)

    def _fail(self, id: UUID, code: str, message: str) -> None:
        self._logger.warning("push %s fails: %s", id, code)  # the message may name the repository
        self._end(id, lambda found: found.fail(code), message=message)

    def _end(
        self,
        id: UUID,
        change: Callable[[HubPush], None],
        url: str | None = None,
        message: str | None = None,
    ) -> None:
        """End a push.

        The outcome comes before the event, so an ended push always has it. If a crash follows, the
        push is repeated, and its outcome replaced. The token comes last: `delete_tokens` finds it.
        """
        with self._pool.connection() as connection:
            set_outcome(connection, id, url, message)

        def attempt() -> None:
            with because(Cause("service:exporter", f"push:{id}", self._clock.now())):
                push = self._log.load(HubPush, id)
                change(push)
                self._log.commit(push)

        self._log.retrying(attempt)
        with self._pool.connection() as connection:
            delete_token(connection, id)
