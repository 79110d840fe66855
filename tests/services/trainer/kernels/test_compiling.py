"""Compiled layers: equal training, exact resume, and when they are used."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from domain.jobs.lifecycle import SegmentEnd
from domain.training.precision import Precision
from infrastructure.disk_cache import trim_kernels
from infrastructure.reports import SegmentSpec
from services.trainer import segment, training
from services.trainer.kernels import compiling
from services.trainer.kernels.compiling import Kind, common_kinds, why_eager
from services.trainer.model import load_base
from services.trainer.processes.ranks import Ranks
from tests.services.trainer.conftest import SpecMaker, chats
from tests.services.trainer.notes import Notes, resuming

FIELDS = {"dropout": 0.1, "epochs": 1, "gradient_accumulation": 1}


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Make every job long enough, with a shared cache of kernels."""
    monkeypatch.setattr(segment, "COMPILED_WORK", 0)
    kept = tmp_path_factory.getbasetemp() / "compiled"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(kept))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")


def kernels_made() -> int:
    """The number of graphs that this process has compiled."""
    return counters["stats"]["unique_graphs"]


def losses(notes: Notes) -> list[float]:
    return [step.train_loss for step in notes.steps]


def alone(spec: SegmentSpec, device: str = "cpu", count: int = 1) -> str | None:
    ranks = Ranks.alone()
    ranks.device, ranks.count = torch.device(device), count
    return why_eager(spec, ranks)


@pytest.mark.full
@pytest.mark.usefixtures("compiler")
def test_a_compiled_run_learns_like_an_eager_one_and_resumes_exactly(
    run, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, before = chats(15), kernels_made()
    patient = make_spec(FIELDS, rows).model_copy(update={"paid_seconds": 3600})  # with a compiler
    expected = run(patient)
    # Before the first step, and from one shape for all jobs, or resuming would not be exact.
    assert kernels_made() == before + 1
    assert segment.COMPILED in expected.lines
    spec = make_spec(FIELDS, rows)
    stopped = run(spec, stop_after=3)
    # It goes on as it began, whatever a new job of its length would do.
    monkeypatch.setattr(segment, "COMPILED_WORK", 1e30)
    again = run(resuming(spec, stopped.checkpoints[-1]))
    assert losses(stopped) + losses(again) == losses(expected)
    assert again.fields["evaluation"] == expected.fields["evaluation"]
    assert again.fields["resumed"].differences == ()

    eager = run(make_spec(FIELDS, rows))
    assert losses(eager) == pytest.approx(losses(expected), abs=1e-3)
    assert segment.COMPILED not in eager.lines


def test_reasons_for_eager_layers(
    make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    spec = make_spec()
    assert "ranks" in (alone(spec, count=2) or "")
    assert "cuda" in (alone(spec, "cuda") or "")
    assert "4-bit" in (alone(spec.model_copy(update={"precision": Precision.NF4})) or "")
    assert "gradient checkpointing" in (
        alone(spec.model_copy(update={"gradient_checkpointing": True})) or ""
    )
    monkeypatch.setattr(compiling.shutil, "which", lambda _: None)
    assert "g++" in (alone(spec) or "")
    monkeypatch.setattr(compiling.shutil, "which", lambda _: "/usr/bin/g++")
    monkeypatch.setattr(compiling.sysconfig, "get_path", lambda _: str(tmp_path))
    assert "Python.h" in (alone(spec) or "")
    (tmp_path / "Python.h").touch()
    assert alone(spec) is None


def test_a_compiler_that_fails_leaves_the_layers_eager(
    run, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    expected = run(make_spec(FIELDS))
    monkeypatch.setattr(segment, "COMPILED_WORK", 0)
    monkeypatch.setattr(compiling.Compiled, "__init__", broken)
    notes = run(make_spec(FIELDS))
    assert any("No space left" in line for line in notes.lines)
    assert losses(notes) == losses(expected)


def test_a_stop_between_two_compilations_trains_nothing(
    run, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {Kind(True, False), Kind(True, True)}
    rehearsed: list[tuple[int, int]] = []
    rehearse = training.Training.rehearse

    def noted(self: training.Training, rows: int, tokens: int) -> None:
        rehearsed.append((rows, tokens))
        rehearse(self, rows, tokens)

    monkeypatch.setattr(segment, "COMPILED_WORK", 0)
    monkeypatch.setattr(training, "common_kinds", lambda _: kinds)
    monkeypatch.setattr(training.Training, "rehearse", noted)
    monkeypatch.setattr(compiling.Compiled, "running", lambda *_: nullcontext())
    stopped = run(make_spec(FIELDS), stop_in=1)
    assert rehearsed == [min(kinds).example]
    assert stopped.fields["outcome"] is SegmentEnd.STOPPED
    assert (stopped.steps, stopped.checkpoints) == ([], [])
    assert segment.COMPILED not in stopped.lines


def test_nothing_is_deleted_from_the_compiler_s_folder_while_it_works(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    kernel = tmp_path / "ab" / f"c{'a' * 51}.main.so"
    found: list[bool] = []

    def compiler(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        trim_kernels(tmp_path, 0)
        found.append(kernel.exists())
        return graph.forward

    def rehearse(rows: int, tokens: int) -> None:
        torch.compile(torch.sin, backend=compiler)(torch.ones(rows, tokens))

    kernel.parent.mkdir()
    kernel.write_bytes(b"a kernel")
    base = load_base(tiny_model, torch.float32)
    compiling.Compiled(base, {Kind(False, False)}, rehearse, lambda: None)
    rehearse(2, 3)  # also what is compiled later
    assert found == [True, True]
    assert trim_kernels(tmp_path, 0).count == 1


def test_kernels_are_made_for_common_shapes():
    shapes = [(4, 64), (8, 120), (1, 64), (2, 300)]
    assert common_kinds(shapes) == {Kind(True, False), Kind(True, True)}
    assert common_kinds([(1, 2000)]) == {Kind(False, True)}
    assert Kind.of(*Kind(True, True).example) == Kind(True, True)
    assert Kind.of(*Kind(False, False).example) == Kind(False, False)
