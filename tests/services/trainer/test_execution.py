"""The execution mode: what a resume keeps, and the differences in the certificate."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from infrastructure.process.code_version import package_version, revision
from services.trainer.execution import ExecutionMode, make_deterministic
from services.trainer.kernels.attention import NAME
from services.trainer.model import load_base
from services.trainer.processes.ranks import Ranks


def settings(mode: ExecutionMode, saved: ExecutionMode) -> list[str]:
    return [each.setting for each in mode.differences(saved)]


def test_the_checkpoints_number_of_threads_is_kept_if_cores_suffice() -> None:
    own = ExecutionMode(dtype="float32", threads=2)
    assert own.continuing(ExecutionMode(dtype="bfloat16", threads=1)).threads == 1
    many = ExecutionMode(dtype="bfloat16", threads=10_000, compiled=True, attention="eager")
    mode = own.continuing(many)
    assert (mode.threads, mode.compiled) == (2, False)
    assert (mode.dtype, mode.attention) == ("bfloat16", "eager")
    assert settings(mode, many) == ["threads", "compiled"]


@pytest.mark.parametrize(("saved", "attention"), [(NAME, "sdpa"), ("eager", "eager")])
def test_a_resume_keeps_the_attention_unless_the_base_cannot_pack(
    tiny_model: Path, saved: str, attention: str
) -> None:
    base = load_base(tiny_model, torch.float32)
    mode = ExecutionMode(dtype="float32", threads=1, attention=saved).set_attention(base)
    assert mode.attention == base.config._attn_implementation == attention


def test_the_certificate_names_other_code_libraries_and_processors() -> None:
    """They compute other bits, and a checkpoint cannot keep them."""
    now = ExecutionMode.of_machine(torch.float32, Ranks.alone(), compiled=False, split=1)
    assert (now.libraries or "").startswith(f"torch {version('torch')}, transformers ")
    assert now.processor
    assert now.code == f"{package_version()} ({revision() or 'no revision'})"
    others = {"code": "0.0.1 (no revision)", "libraries": "torch 2.0.0", "processor": "NVIDIA H100"}
    other = now.model_copy(update=others)
    resumed = now.continuing(other)
    assert {each.setting: each.saved for each in resumed.differences(other)} == others
    unknown = now.model_copy(update=dict.fromkeys(others))
    assert now.continuing(unknown).differences(unknown) == ()


def test_the_certificate_names_a_nondeterministic_gpu() -> None:
    exact = ExecutionMode(dtype="bfloat16", threads=1, device="cuda", deterministic=True)
    loose = exact.model_copy(update={"deterministic": False})
    cpu = ExecutionMode(dtype="float32", threads=1, device="cpu")
    assert settings(exact, exact) == settings(cpu, cpu) == []
    assert settings(loose, exact) == settings(loose, loose) == ["deterministic"]


@pytest.mark.parametrize("own", [None, ":16:8"])
def test_cublas_is_configured_before_the_first_product(own: str | None) -> None:
    """torch reads it at the first product. An operator's own setting stays."""
    name = "CUBLAS_WORKSPACE_CONFIG"
    unset = {each: value for each, value in os.environ.items() if each != name}
    program = (
        "import os, sys; from services.model_libraries import lean_imports; lean_imports(); "
        f"print(os.environ['{name}'], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=unset if own is None else unset | {name: own},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [own or ":4096:8", "False"]


@pytest.mark.parametrize("can", [True, False])
def test_a_gpu_is_deterministic_where_every_operator_of_a_step_can_be(can: bool) -> None:
    def rehearse(*_: int) -> None:
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        if not can:
            # This one has no deterministic implementation, on any device.
            torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))

    try:
        failure = make_deterministic(rehearse)
        assert torch.are_deterministic_algorithms_enabled() is can
        assert failure is None if can else "put_" in str(failure)
    finally:
        torch.use_deterministic_algorithms(False)
