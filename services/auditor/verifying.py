"""One verification that an auditor started on a page, with its progress in the database."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from pydantic import BaseModel

from domain.audit.tree_head import LogKey
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.store import Connection, connect, open_log
from infrastructure.seals import verifications
from infrastructure.seals.archive import SealArchive
from infrastructure.seals.verifications import Options, Outcome, Stage
from infrastructure.settings import Settings
from infrastructure.training.customer_log import without_paths
from services.auditor.report import Circumstances, KeySource, Results, report
from services.projector.artifact_check import ArtifactFindings, check_artifacts
from services.projector.audit import audit
from services.projector.store_checks import head_of
from services.sealer.verification import SealFindings, Trust, verify_seals

WRITE_SECONDS = 1.0
"""Minimum interval between two writes of the progress."""


class Request(BaseModel):
    """A verification to run, with the settings of the gateway."""

    settings: Settings
    id: UUID
    requested_by: UUID
    options: Options


class StopRequested(BaseException):
    """A person stopped the verification. Like KeyboardInterrupt, it passes `except Exception`."""


class Progress:
    """The progress, written once a second and after a stage, unless a person asked to stop."""

    def __init__(self, connection: Connection, id: UUID) -> None:
        self._connection, self._id = connection, id
        self._stage, self._total = Stage.SEALS, None
        self._written = 0.0

    def begin(self, stage: Stage, total: int | None) -> None:
        """Begin a stage. `total` is None if it is unknown."""
        self._stage, self._total = stage, total
        self._write(0)

    def advance(self, done: int) -> None:
        """Note how much of the stage is done. It can exceed the total, because the log grows."""
        is_complete = self._total is not None and done >= self._total
        if is_complete or time.monotonic() - self._written >= WRITE_SECONDS:
            self._write(done if self._total is None else min(done, self._total))

    def _write(self, done: int) -> None:
        self._written = time.monotonic()
        if verifications.report_progress(
            self._connection, self._id, self._stage, done, self._total
        ):
            raise StopRequested


def run(request: Request, on_start: Callable[[bool], object]) -> None:
    """Verify, and store the report, or the problem that prevented it.

    `on_start` receives True once the verification is stored, and False if another one runs. Then
    nothing is verified.
    """
    with verifications.verifying(request.settings) as connection:
        if connection is None:
            on_start(False)
            return
        verifications.begin(connection, request.id, request.requested_by, request.options)
        on_start(True)
        try:
            results, circumstances = _verify(request, Progress(connection, request.id))
        except Exception as error:
            text = f"The verification failed: {type(error).__name__}: {without_paths(str(error))}"
            verifications.fail(connection, request.id, text)
            raise
        document = json.dumps(report(results, circumstances), default=str, indent=1)
        outcome = Outcome(results.verdict, results.differences, results.summary, results.stopped)
        verifications.finish(connection, request.id, outcome, document)


def _verify(request: Request, progress: Progress) -> tuple[Results, Circumstances]:
    settings, options = request.settings, request.options
    started_at = datetime.now(UTC)
    archive = SealArchive(Artifacts(settings.artifacts))
    trust, key_source = _trust(options, archive)
    since, seals, replay, artifacts, stopped = options.since, SealFindings(), None, None, False
    try:
        with connect(settings) as store:
            head = head_of(store)
            progress.begin(Stage.SEALS, max(0, head - since))
            verify_seals(
                store, archive, trust, since, lambda id: progress.advance(id - since), seals
            )
        if options.replay:
            progress.begin(Stage.REPLAY, head)
            replay = audit(settings, progress.advance)
        if options.artifacts:
            progress.begin(Stage.ARTIFACTS, None)
            artifacts = _compare_artifacts(settings, progress)
    except StopRequested:
        stopped = True
    results = Results(seals, replay, artifacts, stopped)
    return results, Circumstances(trust, key_source, since, started_at, datetime.now(UTC))


def _trust(options: Options, archive: SealArchive) -> tuple[Trust, KeySource]:
    """Return the key and the heads to trust. Raise ValueError, InvalidHead or SealDamaged."""
    key = archive.public_key() if options.public_key is None else LogKey.parse(options.public_key)
    if key is None:
        raise ValueError("The archive has no public key, because nothing is sealed yet.")
    kept = () if options.kept_head is None else (key.verify(options.kept_head),)
    source = KeySource.ARCHIVE if options.public_key is None else KeySource.GIVEN
    return Trust(key, kept), source


def _compare_artifacts(settings: Settings, progress: Progress) -> ArtifactFindings:
    with open_log(settings) as log, connect(settings) as store:
        return check_artifacts(
            store, log, Artifacts(settings.artifacts), lambda found: progress.advance(found.files)
        )
