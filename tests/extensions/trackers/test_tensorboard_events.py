"""Event files, read by TensorBoard itself."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from extensions.trackers.tensorboard_events import head, restart, scalars
from tests.builders.commands import NOW


def shown(folder: Path, tag: str) -> list[tuple[int, float, float]]:
    """Return step, time and value of each point that TensorBoard shows."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return [(each.step, each.wall_time, each.value) for each in reader.Scalars(tag)]


def write(folder: Path, *records: bytes) -> None:
    (folder / "events.out.tfevents.1.ecolink").write_bytes(b"".join(records))


def test_tensorboard_reads_the_values_of_each_step(tmp_path: Path) -> None:
    later = NOW + timedelta(seconds=1.5)
    write(
        tmp_path,
        head(NOW),
        scalars(1, NOW, {"train/loss": 2.5, "eval/loss": 3.0}),
        scalars(2**40, later, {"train/loss": 0.125}),
    )
    assert shown(tmp_path, "train/loss") == [
        (1, NOW.timestamp(), 2.5),
        (2**40, later.timestamp(), 0.125),
    ]
    assert shown(tmp_path, "eval/loss") == [(1, NOW.timestamp(), 3.0)]


def test_a_restart_discards_the_steps_that_are_repeated(tmp_path: Path) -> None:
    first = [scalars(step, NOW, {"train/loss": 1.0}) for step in (1, 2, 3, 4)]
    again = [scalars(step, NOW, {"train/loss": 2.0}) for step in (3, 4)]
    write(tmp_path, head(NOW), *first, restart(3, NOW), *again)
    assert [(step, value) for step, _, value in shown(tmp_path, "train/loss")] == [
        (1, 1.0),
        (2, 1.0),
        (3, 2.0),
        (4, 2.0),
    ]
