"""The timeline: a job's own events and its meters', in the order of the log."""

from __future__ import annotations

import json
from dataclasses import replace

from domain.jobs.job import SegmentEnd
from projections import JOB_TIMELINE
from projections.job_timeline import timeline_of
from tests.builders.examples import JOB_ID
from tests.builders.history import History
from tests.projections.conftest import Fold


def test_a_timeline_has_the_events_of_a_job_and_its_meters_in_order(
    history: History, fold: Fold
) -> None:
    history.run_with_a_crash()
    rows = timeline_of(fold(JOB_TIMELINE), JOB_ID)
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


def test_a_timeline_has_the_commands_of_the_owner(history: History, fold: Fold) -> None:
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
    rows = timeline_of(fold(JOB_TIMELINE), JOB_ID, after=7)
    assert [row["topic"] for row in rows] == [
        *("PauseRequested", "SegmentEnded", "JobPaused", "MinuteMetered", "MeterClosed"),
        *("JobResumed", "SegmentAllocated", "MeterOpened", "LeaseGranted"),
        *("CancelRequested", "SegmentEnded", "JobCancelled", "MeterClosed", "AdapterPromoted"),
    ]
    assert rows[2]["fields"] == {"reason": "owner", "step": 10}


def test_a_page_has_the_events_after_a_position_with_their_fields(
    history: History, fold: Fold
) -> None:
    history.run_until("training")
    last = timeline_of(fold(JOB_TIMELINE), JOB_ID)[-1]
    history.save_checkpoint(1, 10, 40)
    (row,) = timeline_of(fold(JOB_TIMELINE), JOB_ID, after=last["position"])
    assert row["topic"] == "CheckpointSaved"
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


def test_a_timeline_has_the_deployments_of_checkpoints(history: History, fold: Fold) -> None:
    history.import_base()
    history.deploy_base()
    history.run_until("training")
    history.save_checkpoint(1, 10, 40)
    model = history.deploy_checkpoint(10)
    history.activate(model)
    history.undeploy(model)
    fold(JOB_TIMELINE)  # later events find the deployment's job in these rows
    history.deploy_checkpoint(10)
    history.fail_deployment(model)
    rows = timeline_of(fold(JOB_TIMELINE), JOB_ID)[-5:]
    assert [row["topic"] for row in rows] == [
        *("DeploymentRequested", "DeploymentActivated", "Undeployed"),
        *("DeploymentRenewed", "DeploymentFailed"),
    ]
    assert {row["fields"]["model"] for row in rows} == {model}
    assert rows[2]["fields"] == {"model": model}
    assert rows[4]["fields"] == {"model": model, "code": "no_room", "message": "It does not fit."}


def test_a_field_that_an_event_gains_changes_the_shape_of_the_timeline(
    history: History, fold: Fold
) -> None:
    """An event that was stored without the field shows its default after a rebuild."""
    history.run_with_a_crash()
    fields = json.loads(JOB_TIMELINE.contents)
    for row in timeline_of(fold(JOB_TIMELINE), JOB_ID):
        assert row["fields"].keys() | {"job_id"} == {*fields[row["topic"]], "job_id"}
    gained = JOB_TIMELINE.contents.replace('"limit_micros"', '"limit_micros", "new"', 1)
    assert replace(JOB_TIMELINE, contents=gained).shape != JOB_TIMELINE.shape
