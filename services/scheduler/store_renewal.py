"""Renewal of the keys with which running trainers use the artifact store."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from uuid import UUID

from domain.core.event_log import EventLog
from domain.jobs.job import Job
from infrastructure.artifacts.s3_requests import S3Refused
from infrastructure.training.store_credentials import StoreIssuer
from services.scheduler.control import ControlChannel
from services.scheduler.segment_spec import store_access


class StoreRenewals:
    """Renews keys after a third of their validity, apart from leases: STS may be unreachable."""

    def __init__(self, log: EventLog, control: ControlChannel, issuer: StoreIssuer) -> None:
        self._log, self._control, self._issuer = log, control, issuer
        self._renewed: dict[tuple[UUID, int], datetime] = {}
        self._logger = logging.getLogger("store keys")

    def renew_due(self) -> None:
        """Send new keys to the segments whose keys are due. Stop at the first refusal."""
        running = self._control.segments()
        self._renewed = {key: at for key, at in self._renewed.items() if key in running}
        pause = timedelta(seconds=self._issuer.valid_seconds / 3)
        for job_id, segment in running:
            at = self._renewed.get((job_id, segment))
            if at is not None and datetime.now(UTC) < at + pause:
                continue
            job = self._log.load(Job, job_id)
            if not job.runs(segment):
                continue
            try:
                credentials = self._issuer.issue(job_id, segment, store_access(job))
            except S3Refused as error:
                self._logger.warning("cannot renew the keys of trainers yet: %s", error)
                return
            self._control.renew_store(job_id, segment, credentials)
            self._renewed[job_id, segment] = datetime.now(UTC)
