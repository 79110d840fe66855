"""`ecolink trainer-log` prints what the job's owner cannot see."""

from __future__ import annotations

from uuid import UUID

import pytest
from typer.testing import CliRunner

from deploy.cli import main
from deploy.processes import environment
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.jobs.job import Job
from infrastructure.artifacts import Artifacts
from infrastructure.settings import Settings
from services.scheduler.segment_spec import kept_log_ref
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, PLAN

TRACE = 'Traceback (most recent call last):\n  File "/srv/ecolink/trainer.py", line 1, in step\n'


def test_an_operator_reads_the_whole_output_of_a_launch(
    settings: Settings, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    with because(Cause("service:test", "job", NOW)):
        job = Job.approve(UUID(int=7), ACCOUNT_ID, PLAN)
        log.save(job)
    name = f"ftjob-{job.id.hex}"
    missing = CliRunner().invoke(main, ["trainer-log", name, "--segment", "2"])
    assert missing.exit_code == 1
    Artifacts(settings.artifacts).put(kept_log_ref(job, 2), TRACE.encode())
    shown = CliRunner().invoke(main, ["trainer-log", name, "--segment", "2"])
    assert (shown.exit_code, shown.output) == (0, TRACE)
    unknown = CliRunner().invoke(main, ["trainer-log", str(UUID(int=8))])
    assert unknown.exit_code == 1
    assert f"ftjob-{UUID(int=8).hex}" in unknown.output
