"""The timeline: a job's own events and its meters', in the order of the log."""

from __future__ import annotations

from psycopg_pool import ConnectionPool

from domain.jobs.job import SegmentEnd
from infrastructure.store import Connection
from projections import JOB_TIMELINE
from projections.job_timeline import timeline_of
from tests.builders.examples import JOB_ID
from tests.builders.history import History
from tests.projections.conftest import Fold


def test_the_story_of_a_job_in_order(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.run_with_a_crash()
    fold(JOB_TIMELINE)
    with pool.connection() as connection:
        rows = timeline_of(connection, JOB_ID)
    assert [row["topic"] for row in rows] == [
        "JobApproved",
        "SegmentAllocated",
        *("MeterOpened", "LeaseGranted", "PodStarted", "TrainingStarted", "CheckpointSaved"),
        *("MinuteMetered", "SegmentEnded", "MinuteMetered", "MeterClosed", "LostWorkCredited"),
        "SegmentAllocated",
        *("MeterOpened", "LeaseGranted", "PodStarted", "TrainingStarted"),
        *("MinuteMetered", "MinuteMetered"),
        *("EvaluationStarted", "EvaluationCompleted", "Registered", "SegmentEnded"),
        "EstimateScored",
        *("MinuteMetered", "MeterClosed"),
    ]
    assert [row["position"] for row in rows] == list(range(1, len(rows) + 1))


def test_a_story_of_its_owners_commands(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    history.pause()
    history.end_segment(1, SegmentEnd.STOPPED, 60)
    history.resume()
    history.allocate_segment(2)
    history.grant_lease(2)
    history.cancel()
    history.end_segment(2, SegmentEnd.STOPPED, 0)
    history.promote()
    fold(JOB_TIMELINE)
    with pool.connection() as connection:
        rows = timeline_of(connection, JOB_ID, after=7)
    assert [row["topic"] for row in rows] == [
        *("PauseRequested", "SegmentEnded", "JobPaused", "MinuteMetered", "MeterClosed"),
        *("JobResumed", "SegmentAllocated", "MeterOpened", "LeaseGranted"),
        *("CancelRequested", "SegmentEnded", "JobCancelled", "MeterClosed", "AdapterPromoted"),
    ]
    assert rows[2]["fields"] == {"reason": "owner", "step": 10}


def test_a_reader_goes_on_after_what_it_has(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.run_until("training")
    fold(JOB_TIMELINE)
    with pool.connection() as connection:
        whole = timeline_of(connection, JOB_ID)
        history.save_checkpoint(1, 10, 40)
        fold(JOB_TIMELINE)
        (news,) = timeline_of(connection, JOB_ID, after=whole[-1]["position"])
    assert news["topic"] == "CheckpointSaved"


def test_a_row_holds_what_the_event_says_without_its_envelope(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    fold(JOB_TIMELINE)
    with pool.connection() as connection:
        row = timeline_of(connection, JOB_ID)[-1]
    assert row["fields"] == {
        "segment": 1,
        "step": 10,
        "train_loss": 2.5,
        "eval_loss": None,
        "elapsed_seconds": 40,
        "ref": "checkpoints/1/10",
        "manifest_sha256": "c" * 64,
        "total_bytes": 1000,
        "state": None,
    }


def test_what_a_job_made_and_its_deployments_are_in_its_story(
    pool: ConnectionPool[Connection], history: History, fold: Fold
) -> None:
    history.import_base()
    history.deploy_base()
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    model = history.deploy_checkpoint(10)
    history.activate(model)
    history.undeploy(model)
    fold(JOB_TIMELINE)  # from here on it knows the deployment's job by its own rows
    history.deploy_checkpoint(10)
    history.fail_deployment(model)
    fold(JOB_TIMELINE)
    with pool.connection() as connection:
        rows = timeline_of(connection, JOB_ID)[-5:]
    assert [row["topic"] for row in rows] == [
        *("DeploymentRequested", "DeploymentActivated", "Undeployed"),
        *("DeploymentRenewed", "DeploymentFailed"),
    ]
    assert {row["fields"]["model"] for row in rows} == {model}
    assert rows[2]["fields"] == {"model": model}
    assert rows[4]["fields"] == {"model": model, "code": "no_room", "message": "It does not fit."}
