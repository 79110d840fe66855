"""Checkpoint reports, pruning and deletion."""

from __future__ import annotations

from domain.catalog.base_model import BaseModel
from domain.core.event_log import EventLog
from domain.core.identity import deployment_id
from domain.deployments.deployment import Deployment
from domain.jobs import events
from domain.jobs.job import Job
from domain.jobs.lifecycle import SegmentEnd
from domain.training.checkpoint import ModeDifference, RejectionReason, ResumeCertificate
from domain.use_cases.deployments import Deploying
from infrastructure.artifacts import Artifacts, Manifest
from infrastructure.consumer import OrderedConsumer
from infrastructure.reports import Phase, RejectedCheckpoint
from infrastructure.settings import Settings
from services.scheduler.handlers import Scheduling
from services.scheduler.job_history import JobHistory
from services.scheduler.segment_spec import job_prefix
from services.scheduler.segments import Segments
from tests.builders.commands import command
from tests.builders.examples import ACCOUNT_ID, JOB_ID, STATE, saved_checkpoint
from tests.builders.history import History
from tests.builders.reports import CHECKPOINT, report
from tests.builders.tiny_model import TINY_SHAPE


def topics(log: EventLog) -> list[str]:
    return [type(event).TOPIC for event in log.events.get(JOB_ID)]  # type: ignore[attr-defined]


def test_a_report_carries_rejections_certificate_and_checkpoint_in_this_order(
    log: EventLog, history: History, segments: Segments
) -> None:
    history.run_until("training")
    home = f"{job_prefix(history.job)}/checkpoints/segment-1"
    with command("save"):
        job = history.job
        for step in (2, 4):
            job.save_checkpoint(
                saved_checkpoint(1, step, 2.0, 5 * step, f"{home}/step-{step}", "c" * 64, 9)
            )
        log.commit(job)
    history.end_segment(1, SegmentEnd.CRASHED, 50)
    history.allocate_segment(2)
    history.start_pod(2)
    certificate = ResumeCertificate(
        ref=f"{home}/step-2",
        step=2,
        state=STATE,
        unchecked=(),
        ranks=1,
        differences=(ModeDifference(setting="threads", saved="2", now="1"),),
    )
    said = report(
        1,
        Phase.TRAINING,
        segment=2,
        step=10,
        rejected=(RejectedCheckpoint(ref=f"{home}/step-4", reason=RejectionReason.CORRUPT),),
        resumed=certificate,
        checkpoint=CHECKPOINT.model_copy(update={"segment": 2, "state": STATE, "eval_loss": 1.25}),
    )
    for n in (1, 2):
        segments.record(said.model_copy(update={"n": n}))
    assert topics(log)[-5:] == [
        *("PodStarted", "CheckpointRejected", "ResumeCertified"),
        *("TrainingStarted", "CheckpointSaved"),
    ]
    job = log.load(Job, JOB_ID)
    assert [each.step for each in job.checkpoints] == [2, 10]
    assert (job.checkpoints[-1].state, job.checkpoints[-1].eval_loss) == (STATE, 1.25)


def test_a_refused_certificate_keeps_the_rest_of_its_report(
    log: EventLog, history: History, segments: Segments
) -> None:
    history.run_until("training")
    home = f"{job_prefix(history.job)}/checkpoints/segment-1"
    with command("save"):
        job = history.job
        job.save_checkpoint(saved_checkpoint(1, 2, 2.0, 10, f"{home}/step-2", state=STATE))
        log.commit(job)
    history.end_segment(1, SegmentEnd.CRASHED, 50)
    history.allocate_segment(2)
    history.start_pod(2)
    other = STATE.model_copy(update={"weights": "5" * 64})
    certificate = ResumeCertificate(
        ref=f"{home}/step-2", step=2, state=other, unchecked=(), ranks=1, differences=()
    )
    segments.record(report(1, Phase.TRAINING, segment=2, step=2, resumed=certificate))
    assert topics(log)[-2:] == ["PodStarted", "TrainingStarted"]
    (resume,) = JobHistory(log.events.get(JOB_ID)).resumes
    assert not resume.certified


def test_the_next_report_includes_checkpoints_of_lost_reports(
    log: EventLog, history: History, segments: Segments
) -> None:
    history.run_until("training")
    home = f"{job_prefix(history.job)}/checkpoints/segment-1"
    ten, twenty, thirty, forty = (
        CHECKPOINT.model_copy(update={"step": step, "ref": f"{home}/step-{step}"})
        for step in (10, 20, 30, 40)
    )
    segments.record(report(1, Phase.TRAINING, checkpoint=ten))
    for n in (2, 3):
        said = report(n, Phase.TRAINING, earlier=(ten, twenty, thirty), checkpoint=forty)
        segments.record(said)
    saved = [each for each in log.events.get(JOB_ID) if isinstance(each, events.CheckpointSaved)]
    assert [each.step for each in saved] == [10, 20, 30, 40]


def test_a_third_checkpoint_deletes_the_first(
    log: EventLog, history: History, scheduler: OrderedConsumer, artifacts: Artifacts
) -> None:
    history.open_pool()
    history.approve_job()
    history.allocate_segment(1)
    for step in (10, 20, 30):
        artifacts.put(f"checkpoints/1/{step}/manifest.json", b"{}")
        artifacts.put(f"checkpoints/1/{step}/state.pt", b"state")
        history.save_checkpoint(1, step, 4 * step)
    scheduler.catch_up()
    assert topics(log).count("CheckpointPruned") == 1
    assert {ref.split("/")[2] for ref in artifacts.list("checkpoints")} == {"20", "30"}
    history.complete(1)
    scheduler.catch_up()
    assert {ref.split("/")[2] for ref in artifacts.list("checkpoints")} == {"30"}


def test_promoting_a_checkpoint_deletes_the_one_before(
    log: EventLog, history: History, scheduler: OrderedConsumer, artifacts: Artifacts
) -> None:
    history.open_pool()
    history.approve_job()
    history.allocate_segment(1)
    history.grant_lease(1)
    history.start_pod(1)
    artifacts.put("checkpoints/1/10/manifest.json", b"{}")
    history.save_checkpoint(1, 10, 40)
    saved = artifacts.add_files("checkpoints/1/20", Manifest(files=()), {"state.pt": b"state"})
    with command("checkpoint"):
        job = history.job
        job.save_checkpoint(saved_checkpoint(1, 20, 2.5, 80, "checkpoints/1/20", saved.sha256, 5))
        log.commit(job)
    history.cancel()
    history.end_segment(1, SegmentEnd.STOPPED, 90)
    scheduler.catch_up()
    assert {ref.split("/")[2] for ref in artifacts.list("checkpoints")} == {"10", "20"}
    history.promote()
    scheduler.catch_up()
    assert {ref.split("/")[2] for ref in artifacts.list("checkpoints")} == {"20"}
    assert artifacts.exists("checkpoints/1/20/state.pt")
    assert topics(log).count("CheckpointPruned") == 1


def test_a_deployed_checkpoint_keeps_its_files_until_it_is_undeployed(
    log: EventLog, history: History, scheduler: OrderedConsumer, artifacts: Artifacts
) -> None:
    history.import_base()
    history.deploy_base()
    history.open_pool()
    history.approve_job()
    history.allocate_segment(1)
    deploying = Deploying(log)
    for step in (10, 20, 30):
        artifacts.put(f"checkpoints/1/{step}/manifest.json", b"{}")
        history.save_checkpoint(1, step, 4 * step)
        if step == 10:
            with command("deploy"):
                model = deploying.deploy_checkpoint(ACCOUNT_ID, JOB_ID, 10).model
    history.complete(1)
    scheduler.catch_up()
    assert {ref.split("/")[2] for ref in artifacts.list("checkpoints")} == {"10", "30"}
    with command("it cannot be served"):
        deployment = log.load(Deployment, deployment_id(ACCOUNT_ID, model))
        deployment.fail("load_failed", "The weights could not be loaded.")
        log.commit(deployment)
    scheduler.catch_up()
    assert {ref.split("/")[2] for ref in artifacts.list("checkpoints")} == {"10", "30"}
    with command("undeploy"):
        deploying.undeploy(ACCOUNT_ID, model)
    scheduler.catch_up()
    assert {ref.split("/")[2] for ref in artifacts.list("checkpoints")} == {"30"}


def test_a_deleted_base_loses_its_files_unless_reimported(
    log: EventLog, settings: Settings
) -> None:
    artifacts = Artifacts(settings.artifacts)
    scheduling = Scheduling(log, None, None, None, artifacts, settings)  # type: ignore[arg-type]
    ref, content = "models/tiny/1", ("m1", "LlamaForCausalLM", 1000, 256, TINY_SHAPE)
    artifacts.put(f"{ref}/config.json", b"{}")
    with command():
        base = BaseModel.imported("tiny", ref, *content)
        base.delete()
        base.revise(ref, *content)
        *_, deleted, _ = base.pending_events
        log.commit(base)
        assert isinstance(deleted, BaseModel.BaseModelDeleted)
        scheduling.handle(deleted)
        assert artifacts.exists(f"{ref}/config.json")
        base.delete()
        log.commit(base)
        scheduling.handle(deleted)
    assert not artifacts.exists(f"{ref}/config.json")
