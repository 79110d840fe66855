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
from infrastructure.artifacts.disk_cache import trim_kernels
from services.trainer import segment, training
from services.trainer.kernels import compiling
from services.trainer.kernels.compiling import Kind, common_kinds, why_eager
from services.trainer.model import load_base
from services.trainer.processes.ranks import Ranks
from tests.builders.tiny_model import chats
from tests.services.trainer.segments import Trainer, resuming

FIELDS = {"dropout": 0.1, "epochs": 1, "gradient_accumulation": 1}


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Make every job long enough, with a shared cache of kernels."""
    monkeypatch.setattr(segment, "COMPILED_WORK", 0)
    kept = tmp_path_factory.getbasetemp() / "compiled"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(kept))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")


def graphs_compiled() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.mark.full
@pytest.mark.usefixtures("compiler")
def test_a_compiled_run_learns_like_an_eager_one_and_resumes_exactly(trainer: Trainer) -> None:
    before = graphs_compiled()
    # Compiling takes paid time.
    whole, spec, short = (trainer.spec(FIELDS, chats(15), paid_seconds=3600) for _ in range(3))
    expected = trainer.run(whole)
    assert graphs_compiled() == before + 1, "one shape for all jobs, so that a resume is exact"
    assert segment.COMPILED in expected.lines
    stopped = trainer.run(spec, stop_after=3)
    # A new job of this length would be eager. A resumed one stays compiled.
    trainer.patch.setattr(segment, "COMPILED_WORK", 1e30)
    again = trainer.run(resuming(spec, stopped.checkpoints[-1]))
    assert trainer.result(spec, stopped, again) == trainer.result(whole, expected)
    assert again.fields["resumed"].differences == ()

    eager = trainer.run(short)
    assert eager.losses == pytest.approx(expected.losses, abs=1e-3)
    assert segment.COMPILED not in eager.lines


@pytest.mark.parametrize(
    ("fields", "device", "count", "reason"),
    [
        ({}, "cpu", 2, "ranks"),
        ({}, "cuda", 1, "cuda"),
        ({"precision": Precision.NF4}, "cpu", 1, "4-bit"),
        ({"gradient_checkpointing": True}, "cpu", 1, "gradient checkpointing"),
    ],
)
def test_some_segments_are_always_eager(
    trainer: Trainer, fields: dict, device: str, count: int, reason: str
) -> None:
    ranks = Ranks.alone()
    ranks.device, ranks.count = torch.device(device), count
    assert reason in (why_eager(trainer.spec(**fields), ranks) or "")


def test_a_compiler_needs_g_plus_plus_and_pythons_headers(trainer: Trainer) -> None:
    spec, ranks, found = trainer.spec(), Ranks.alone(), list[str]()
    trainer.patch.setattr(compiling.shutil, "which", lambda _: (found or [None])[0])
    trainer.patch.setattr(compiling.sysconfig, "get_path", lambda _: str(trainer.folder))
    assert "g++" in (why_eager(spec, ranks) or "")
    found.append("/usr/bin/g++")
    assert "Python.h" in (why_eager(spec, ranks) or "")
    (trainer.folder / "Python.h").touch()
    assert why_eager(spec, ranks) is None


def test_a_compiler_that_fails_leaves_the_layers_eager(trainer: Trainer) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    expected = trainer.train(FIELDS)
    trainer.patch.setattr(segment, "COMPILED_WORK", 0)
    trainer.patch.setattr(compiling.Compiled, "__init__", fail)
    run = trainer.train(FIELDS)
    assert any("No space left" in line for line in run.lines)
    assert run.losses == expected.losses


def test_a_stop_between_two_compilations_trains_nothing(trainer: Trainer) -> None:
    kinds = {Kind(True, False), Kind(True, True)}
    rehearsed, rehearse = list[tuple[int, int]](), training.Training.rehearse

    def rehearse_and_note(self: training.Training, rows: int, tokens: int) -> None:
        rehearsed.append((rows, tokens))
        rehearse(self, rows, tokens)

    trainer.patch.setattr(segment, "COMPILED_WORK", 0)
    trainer.patch.setattr(training, "common_kinds", lambda _: kinds)
    trainer.patch.setattr(training.Training, "rehearse", rehearse_and_note)
    trainer.patch.setattr(compiling.Compiled, "running", lambda *_: nullcontext())
    stopped = trainer.run(trainer.spec(FIELDS), stop_in=1)
    assert rehearsed == [min(kinds).example]
    assert stopped.outcome is SegmentEnd.STOPPED
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
    rehearse(2, 3)  # later compilations lock the folder too
    assert found == [True, True]
    assert trim_kernels(tmp_path, 0).count == 1


def test_kernels_are_compiled_for_common_shapes():
    shapes = [(4, 64), (8, 120), (1, 64), (2, 300)]
    assert common_kinds(shapes) == {Kind(True, False), Kind(True, True)}
    assert common_kinds([(1, 2000)]) == {Kind(False, True)}
    assert Kind.of(*Kind(True, True).example) == Kind(True, True)
    assert Kind.of(*Kind(False, False).example) == Kind(False, False)
