"""The kept changes of a job for its viewers: the newest view, and every event."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from domain.core.errors import Invalid
from domain.jobs import events
from gateway.jobs.pages import live_jobs
from gateway.jobs.pages.timeline import Entry
from gateway.jobs.pages.watched_job import KEPT, KEPT_FRAMES, Seen, WatchedJob
from tests.builders.commands import NOW

Frame = dict[str, Any]


def watched(sequence: int) -> WatchedJob:
    return WatchedJob(uuid4(), uuid4(), sequence)


def entry(sequence: int) -> Entry:
    return Entry(sequence, NOW, events.CheckpointSaved.TOPIC, f"saved {sequence}", "good", False)


def test_a_slow_viewer_gets_the_newest_view_and_every_event() -> None:
    job = watched(10)
    for sequence in range(11, 16):
        job.tell([entry(sequence)], sequence)
        job.show({"head": f"view {sequence}"})
    frame = json.loads(job.frame_since(0))
    assert frame["events"] == [11, 12, 13, 14, 15]
    assert frame["content"].count("view") == 1
    assert "view 15" in frame["content"]
    assert job.frame_since(0) is job.frame_since(0)  # rendered once for all equally slow viewers
    assert not job.show({"head": "view 15"})


def test_kept_changes_are_bounded() -> None:
    job = watched(0)
    for sequence in range(1, 4 * KEPT):
        job.tell([entry(sequence)], sequence)
    last = 4 * KEPT - 1
    frame = json.loads(job.frame_after(Seen(job.floor, (0, 0), (0, 0), (0, 0))))
    assert frame["events"] == list(range(job.floor + 1, last + 1))
    assert KEPT <= len(frame["events"]) <= 2 * KEPT


def rows(first: int, last: int) -> dict[str, list[dict[str, Any]]]:
    """Return measured steps and log lines with these numbers."""
    numbers = range(first, last + 1)
    step = {"segment": 1, "loss": 2.0, "smoothed": 2.5}
    line = {"segment": 1, "level": "INFO", "text": "a line"}
    return {
        "steps": [step | {"step": n} for n in numbers],
        "lines": [line | {"n": n} for n in numbers],
    }


def steps(first: int, last: int) -> dict[str, list[dict[str, Any]]]:
    return {"steps": rows(first, last)["steps"]}


def test_a_gap_in_the_read_rows_reloads_the_curve_and_the_log() -> None:
    """After an outage of the database or a burst of log lines, only the newest rows are read."""
    job = watched(0)
    job.measure(rows(1, 3), KEPT)
    before = job.tick
    job.measure(steps(10, 9 + KEPT), KEPT)
    frame = json.loads(job.frame_since(before))
    assert frame["curve"] is None
    assert "line" not in frame
    job.measure({"lines": rows(10, 9 + KEPT)["lines"]}, KEPT)
    assert json.loads(job.frame_since(before))["line"] is None
    now = job.tick
    job.measure(steps(10 + KEPT, 10 + KEPT), KEPT)
    assert json.loads(job.frame_since(now))["curve"]["steps"] == [[1, 10 + KEPT, 2.0, 2.5]]


def test_a_viewer_behind_the_kept_rows_reloads_the_curve_and_the_log() -> None:
    job = watched(0)
    job.measure({}, KEPT)
    ticks: list[int] = []
    for n in range(1, 2 * KEPT + 2):
        job.measure(rows(n, n), KEPT)
        ticks.append(job.tick)
    late = json.loads(job.frame_since(ticks[KEPT - 1]))
    assert (late["curve"], late["line"]) == (None, None)
    in_time = json.loads(job.frame_since(ticks[KEPT]))
    assert [step for _, step, *_ in in_time["curve"]["steps"]] == list(
        range(KEPT + 2, 2 * KEPT + 2)
    )
    assert in_time["line"] == [1, 2 * KEPT + 1]


def test_a_viewer_behind_the_kept_events_reloads_the_page() -> None:
    job = watched(0)
    job.measure({name: [] for name in job.series}, KEPT)
    viewer = live_jobs.Viewer(job, uuid4(), uuid4(), Seen(0, (0, 0), (0, 0), (0, 0)), ended=False)
    assert viewer.next_frame()
    for sequence in range(1, 2 * KEPT + 2):
        job.tell([entry(sequence)], sequence)
    with pytest.raises(Invalid, match=live_jobs.TOO_OLD):
        viewer.next_frame()


@pytest.mark.full
def test_recalled_events_and_frames_are_bounded() -> None:
    job = watched(10 * KEPT)
    first, second, third = 9 * KEPT, 8 * KEPT, 7 * KEPT
    assert job.recall([entry(n + 1) for n in range(first, 10 * KEPT)], first)
    assert job.recall([entry(n + 1) for n in range(second, first)], second)
    assert not job.recall([entry(n + 1) for n in range(third, second)], third)
    for n in range(second, second + 200):
        job.frame_after(Seen(n, (0, 0), (0, 0), (0, 0)))
    assert len(job._frames) <= KEPT_FRAMES  # pyright: ignore[reportPrivateUsage]


def test_recalled_events_are_sent_only_to_the_viewer_that_asked() -> None:
    job = watched(10)
    job.tell([entry(11)], 11)
    job.recall([entry(8), entry(9), entry(10), entry(11)], 7)
    assert json.loads(job.frame_after(Seen(8, (0, 0), (0, 0), (0, 0))))["events"] == [9, 10, 11]
    assert json.loads(job.frame_since(0))["events"] == [11]
