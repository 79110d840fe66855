"""Effects of a changed or withdrawn entry of the catalog."""

from __future__ import annotations

from typing import Any

from domain.capacity.availability import PoolLoad
from gateway.ops.catalog.effects import Jobs, effects_of_capacity, effects_of_entry
from gateway.ops.catalog.form import CatalogForm, Kind

JOBS = Jobs(running=1, queued=2, paused=3, requested=4, unplaced=5)
HARDWARE = "if no machine has this hardware"


def effects(kind: Kind, *changed: str, **fields: Any) -> list[str]:
    """Return the effects on the running, queued and paused jobs, and on requests."""
    form = CatalogForm(kind=kind, version=1, name="x", **fields)
    found = effects_of_entry(form, changed, JOBS, adapters=6)
    assert [each.count for each in found][:5] == [1, 2, 3, 4, 5]
    return [each.text for each in found]


def test_a_new_name_and_source_affect_no_job() -> None:
    assert set(effects(Kind.GPU_TYPE, "title", "source")) == {"do not change"}


def test_other_hardware_can_pause_queued_jobs() -> None:
    for field in ("device_names", "backing"):
        running, queued, paused, requested, _ = effects(Kind.GPU_TYPE, field)
        assert running == "keep their GPUs"
        assert queued == f"pause {HARDWARE}"
        assert paused == f"cannot resume {HARDWARE}"
        assert requested == f"are refused {HARDWARE}"


def test_fewer_gpus_per_job_limit_the_jobs_that_resume_or_start() -> None:
    running, queued, paused, requested, _ = effects(Kind.GPU_TYPE, "max_per_job", max_per_job=2)
    assert running == queued == "do not change"
    assert paused == "can resume on at most 2 GPUs"
    assert requested == "are refused if they need more than 2 GPUs"


def test_effects_of_several_fields_are_combined() -> None:
    running, queued, paused, requested, unplaced = effects(
        Kind.GPU_TYPE,
        *("micros_per_hour", "backing", "device_names", "vram_gib", "bf16_tflops"),
    )
    assert running == "keep the approved price; keep their GPUs"
    assert queued == f"keep the approved price; pause {HARDWARE}"
    assert paused.startswith(f"get the new price when they resume; cannot resume {HARDWARE}; get")
    assert requested.startswith("get the price that is valid when their files are ready; are ref")
    assert unplaced == "can use this GPU type with the new values"


def test_a_withdrawal_refuses_the_jobs_that_wait_for_their_files() -> None:
    for kind in (Kind.GPU_TYPE_WITHDRAWAL, Kind.REGION_WITHDRAWAL):
        *_, requested, unplaced = effects(kind, "entry")
        assert requested == "are refused"
        assert unplaced == "use other GPUs, or are refused if none fit"
    assert effects(Kind.BASE_WITHDRAWAL, "entry")[3] == "are refused"
    assert effects(Kind.BASE, "eligible", eligible=False)[3] == "are refused"
    assert effects(Kind.BASE, "source", eligible=False)[3] == "do not change"


def test_a_capacity_refuses_jobs_that_need_more_gpus() -> None:
    load = PoolLoad("local", "l4", 4, (), ())
    requested = {count: effects_of_capacity(load, count, JOBS)[3].text for count in (0, 1)}
    assert requested == {0: "are refused", 1: "are refused if they need more than 1 GPU"}


def test_an_entry_that_no_request_leaves_open_has_no_row_for_them() -> None:
    form = CatalogForm(kind=Kind.REGION, version=1, name="x")
    found = effects_of_entry(form, ["title"], Jobs(0, 0, 0), adapters=0)
    assert [each.affected for each in found] == [
        "Running jobs",
        "Queued jobs",
        "Paused jobs",
        "Jobs whose files are not ready",
    ]
