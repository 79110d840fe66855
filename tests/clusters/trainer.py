"""The reporter of a trainer, which measures steps until it is told to finish."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from domain.jobs.lifecycle import SegmentEnd
from domain.training.hyperparameters import Hyperparameters
from infrastructure.bus.tls import nats_authority
from infrastructure.settings import Settings
from infrastructure.training.reports import SegmentSpec
from infrastructure.training.segment_credentials import CredentialIssuer
from services.trainer.clock import SegmentClock
from services.trainer.lease import Lease
from services.trainer.reporter import Reporter
from tests.builders.reports import step_of

PAID_SECONDS = 3600
STEP_SECONDS, TOTAL_STEPS = 0.05, 1_000_000


class ReportingTrainer:
    """A segment whose trainer only reports, with credentials of its own."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        issuer = CredentialIssuer.of(settings)
        assert issuer is not None
        assert settings.nats_url is not None
        self._url, self._folder = settings.nats_url, folder
        account_id, job_id = uuid4(), uuid4()
        self.spec = SegmentSpec(
            account_id=account_id,
            job_id=job_id,
            segment=1,
            dataset_ref="dataset",
            dataset_sha256="0" * 64,
            base_model="tiny",
            base_ref="models/tiny",
            hyperparameters=Hyperparameters(),
            paid_seconds=PAID_SECONDS,
            grace_seconds=30,
            heartbeat_seconds=0.2,
            checkpoint_prefix="checkpoints",
            adapter_prefix="adapter",
            credentials=issuer.issue(account_id, job_id, 1),
            nats_ca=nats_authority(settings),
        )
        self.steps = 0
        self._finished = threading.Event()

    def finish(self) -> None:
        """Let the trainer send its final report."""
        self._finished.set()

    @contextmanager
    def running(self) -> Iterator[threading.Thread]:
        """Run the trainer in a thread, which ends when its final report is acknowledged."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield thread
        finally:
            self.finish()
            thread.join()

    def _run(self) -> None:
        lease = Lease(SegmentClock(0.0), PAID_SECONDS, 30)
        with Reporter(self.spec, lease, self._url, self._folder) as reporter:
            while not self._finished.wait(STEP_SECONDS):
                self.steps += 1
                reporter.measure(step_of(self.spec, self.steps, TOTAL_STEPS))
            reporter.finish(SegmentEnd.COMPLETED)
