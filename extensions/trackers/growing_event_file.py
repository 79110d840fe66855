"""`ecolink jobs tensorboard`: the metrics of a job as event files, also while it runs."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from extensions.trackers.metric_names import EVALUATION_METRICS, STEP_METRICS, named
from extensions.trackers.tensorboard_events import head, restart, scalars
from gateway.cli.client import Client
from gateway.cli.following import ENDINGS, breathe, leaving_it_running, patiently
from gateway.jobs.schemas import Evaluation, JobDetail, Step


class EventFile:
    """An event file of a job, which grows. TensorBoard shows it in place of earlier files.

    A resumed job repeats the steps since its checkpoint. TensorBoard then discards what it shows
    of them.
    """

    def __init__(self, client: Client, job: str, file: BinaryIO) -> None:
        self._client, self._job, self._file = client, job, file
        self._after = self._checkpoint = 0
        self._newest = (0, 0)  # segment and step of the last row
        self._evaluated: dict[int, int] = {}  # segment of each evaluated step
        now = datetime.now(UTC)
        self._file.write(head(now) + restart(0, now))

    def update(self) -> None:
        """Add new steps and evaluations. Raise ClientError."""
        for row in self._client.read_all(
            Step, f"/jobs/{self._job}/steps", "step", after=self._after
        ).model.data:
            if (row.segment, row.step) <= self._newest:
                continue  # written already, or lost and not repeated yet
            if row.step <= self._newest[1]:
                self._file.write(restart(row.step, row.measured_at))
                self._evaluated = {s: n for s, n in self._evaluated.items() if s < row.step}
            self._newest, self._after = (row.segment, row.step), row.step
            values = named(row.model_dump(), STEP_METRICS)
            self._file.write(scalars(row.step, row.measured_at, values))
        path = f"/jobs/{self._job}/evaluations"
        for row in self._client.read_all(Evaluation, path, "step").model.data:
            if self._evaluated.get(row.step) != row.segment:
                self._evaluated[row.step] = row.segment
                values = named(row.model_dump(), EVALUATION_METRICS)
                self._file.write(scalars(row.step, row.measured_at, values))
        self._file.flush()

    def resume(self, job: JobDetail) -> None:
        """Read the steps since the checkpoint again if a new segment repeats them."""
        saved = job.checkpoint_step or 0
        if job.segment > self._newest[0]:
            self._after = min(self._after, self._checkpoint, saved)
        else:
            self._checkpoint = saved


def write(client: Client, job: str, logdir: Path, *, follow: bool) -> Path:
    """Write an event file below a folder, and follow the job if asked. Return the file."""
    found = client.read(JobDetail, f"/jobs/{job}").model
    folder = logdir / job
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"events.out.tfevents.{time.time_ns() // 1_000_000}.ecolink"
    with path.open("xb") as file:
        events = EventFile(client, job, file)
        events.update()
        events.resume(found)
        while follow and found.status not in ENDINGS:
            with leaving_it_running(job):
                breathe()
                found = patiently(lambda: client.read(JobDetail, f"/jobs/{job}").model)
                events.resume(found)
                patiently(events.update)
    return path
