"""`ecolink trainer-log` prints what the job's owner cannot see."""

from __future__ import annotations

from functools import partial
from uuid import UUID

from domain.core.event_log import EventLog
from domain.jobs.job import Job
from infrastructure.artifacts.store import Artifacts
from infrastructure.settings import Settings
from infrastructure.training.job_artifacts import kept_log_ref
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID, ESTIMATE, JOB_ID, PLAN
from tests.deploy.operator.command_line import ecolink

TRACE = 'Traceback (most recent call last):\n  File "/srv/ecolink/trainer.py", line 1, in step\n'


def test_an_operator_reads_the_whole_output_of_a_launch(settings: Settings, log: EventLog) -> None:
    with command("approve"):
        job = Job.approve(JOB_ID, ACCOUNT_ID, PLAN, ESTIMATE)
        log.save(job)
    show = partial(ecolink, "trainer-log", f"ftjob-{job.id.hex}", "--segment", "2")
    show(exit_code=1)
    Artifacts(settings.artifacts).put(kept_log_ref(job, 2), TRACE.encode())
    assert show() == TRACE
    unknown = UUID(int=8)
    assert f"ftjob-{unknown.hex}" in ecolink("trainer-log", str(unknown), exit_code=1)
