"""A stop at any place and a resume give the bits of an uninterrupted run."""

from __future__ import annotations

import pytest

from domain.jobs.lifecycle import SegmentEnd
from infrastructure.artifacts import Artifacts
from infrastructure.reports import SegmentSpec
from tests.bench.stop_points import Place, act_at
from tests.services.trainer.conftest import SpecMaker
from tests.services.trainer.notes import Notes, resuming

CHOSEN = {"gradient_accumulation": 3, "dropout": 0.1, "save_steps": 2}


def adapter(artifacts: Artifacts, spec: SegmentSpec) -> str:
    files = artifacts.manifest(spec.adapter_prefix).files
    return next(file.sha256 for file in files if file.path == "adapter_model.safetensors")


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, tuple[list[float], str]]:
    """The losses and the adapter of the whole run, by precision."""
    return {}


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
@pytest.mark.parametrize(
    ("place", "number"),
    [(Place.FORWARD, 8), (Place.BACKWARD, 5), (Place.BETWEEN, 11), (Place.SAVE, 2)],
)
def test_a_stop_at_any_place_resumes_exactly(
    run,
    make_spec: SpecMaker,
    artifacts: Artifacts,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[str, tuple[list[float], str]],
    place: Place,
    number: int,
    precision: str,
) -> None:
    if precision not in uninterrupted:
        whole = make_spec(CHOSEN, precision=precision)
        steps = run(whole).steps
        uninterrupted[precision] = [each.train_loss for each in steps], adapter(artifacts, whole)
    first, leases = make_spec(CHOSEN, precision=precision), []
    with monkeypatch.context() as patch:
        enter = Notes.enter
        patch.setattr(
            Notes, "enter", lambda notes, phase: (leases.append(notes.lease), enter(notes, phase))
        )
        act_at(place, number, lambda: leases[-1].request_stop(), patch.setattr)
        stopped = run(first)
    assert stopped.fields["outcome"] is SegmentEnd.STOPPED
    again = resuming(first, *reversed(stopped.checkpoints))
    resumed = run(again)
    losses = [each.train_loss for each in (*stopped.steps, *resumed.steps)]
    assert (losses, adapter(artifacts, again)) == uninterrupted[precision]
