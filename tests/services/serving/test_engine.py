"""Answers equal those of transformers and PEFT, whatever else is in the batch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Semaphore
from typing import Any
from uuid import UUID

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.serving import batch as batch
from services.serving.base_model import BaseModel
from services.serving.batch import FAIR_READ, FAIR_ROWS, Batch, NotFinite
from services.serving.deployed import CannotServe
from services.serving.engine import Engine, EngineOptions
from services.serving.multi_lora import MultiLoraLinear
from services.serving.refusals import AccountQueueFull, ContextExceeded, NotLoaded, QueueFull
from services.serving.sampler import Sampler
from services.serving.step import Part
from tests.polling import eventually
from tests.services.serving.answers import SPACE, Answers
from tests.services.serving.conftest import ServedMaker, deployment_of

QUESTIONS = (
    "Hello!",
    "What is the capital of France? " * 5,
    "Good morning, good evening.",
    "the quick brown fox jumps over a lazy dog " * 4,
    "Thanks.",
)


def generated(base: Path, adapter: Path | None, question: str, new_tokens: int) -> list[int]:
    """The greedy answer of the libraries."""
    model = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.inference_mode():
        output = model.eval().generate(**prompt, max_new_tokens=new_tokens, do_sample=False)
    return output[0, prompt["input_ids"].shape[1] :].tolist()


def test_mixed_requests_are_answered_as_by_peft(
    engine: Engine,
    served: ServedMaker,
    answers: Answers,
    tiny_model: Path,
    adapters: tuple[Path, Path],
) -> None:
    """The base and two adapters in one batch. Prompts of several lengths join one by one."""
    models = {"base": None, "first": adapters[0], "second": adapters[1]}
    for name, adapter in models.items():
        engine.attach(served(name, adapter))
    begun = []
    for number, question in enumerate(QUESTIONS):
        for name in models:
            begun.append((name, question, answers.ask(name, question, max_tokens=24 + number)))
        begun[-1][2].begun.wait(60)
    said = []
    for number, (name, question, answer) in enumerate(begun):
        expected = generated(tiny_model, models[name], question, 24 + number // 3)
        assert answer.wait().tokens == expected, (name, question)
        said.append(tuple(expected))
    assert len(set(said)) > len(QUESTIONS)  # the adapters change the answers


def test_long_prompts_and_little_memory_change_nothing(
    served: ServedMaker,
    tiny_model: Path,
    adapters: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prompts are read in pieces, and rows that are sent back read again."""
    monkeypatch.setattr(batch, "READ_AT_ONCE", 16)
    monkeypatch.setattr(batch, "READ_ALONE", 24)
    sent_back = []
    send_back = Batch._send_back
    monkeypatch.setattr(
        Batch, "_send_back", lambda self, row: (sent_back.append(row), send_back(self, row))
    )
    # Three rows of 128 tokens, of 2 layers, 2 heads and 8 numbers of 4 bytes.
    options = EngineOptions(
        rows=4, cache_bytes=3 * 128 * 2 * 2 * 2 * 8 * 4, precision="fp32", device="cpu"
    )
    engine = Engine(options)
    try:
        for name, adapter in (("base", None), ("first", adapters[0])):
            engine.attach(served(name, adapter))
        asked = [
            (name, adapter, "the quick brown fox jumps over a lazy dog " * times)
            for times, name, adapter in (
                (1, "base", None),
                (6, "first", adapters[0]),
                (2, "first", adapters[0]),
                (5, "base", None),
                (3, "base", None),
            )
        ]
        given = [Answers(engine).ask(name, text, max_tokens=90) for name, _, text in asked]
        for answer, (_, adapter, question) in zip(given, asked, strict=True):
            assert answer.wait().tokens == generated(tiny_model, adapter, question, 90)
    finally:
        engine.close()
    assert sent_back


def test_models_are_attached_and_detached_while_others_answer(
    engine: Engine, served: ServedMaker, answers: Answers, adapters: tuple[Path, Path]
) -> None:
    engine.attach(served("first", adapters[0]))
    before = answers.ask("first", "Hello!", max_tokens=100)
    before.begun.wait(60)
    engine.attach(served("second", adapters[1]))  # on the running base
    second = answers.ask("second", "Hello!", max_tokens=20).wait()
    engine.detach(deployment_of("first"))
    with pytest.raises(NotLoaded):
        answers.ask("first", "Hello!")
    assert len(before.wait().tokens) == 100  # running answers end normally
    engine.attach(served("first", adapters[0]))
    assert answers.ask("first", "Hello!", max_tokens=100).wait().tokens == before.tokens
    engine.attach(served("first", adapters[1]))  # replaced by other weights
    assert answers.ask("first", "Hello!", max_tokens=20).wait().tokens == second.tokens
    for name in ("first", "second", "unknown"):
        engine.detach(deployment_of(name))
    assert engine._batches == {}


def test_a_base_is_loaded_once(
    engine: Engine, served: ServedMaker, adapters: tuple[Path, Path]
) -> None:
    for name, adapter in (("base", None), ("first", adapters[0]), ("second", adapters[1])):
        engine.attach(served(name, adapter))
    assert len({id(each.batch.base) for each in engine._attached.values()}) == 1


def test_seeds_choices_and_temperature(
    engine: Engine, served: ServedMaker, answers: Answers
) -> None:
    engine.attach(served("base"))
    warm = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 20}
    one, two, three = answers.ask_for(3, "base", "Hello!", seed=7, **warm)
    alone = answers.ask("base", "Hello!", seed=7, **warm).wait()
    assert one.wait().text == alone.text
    assert len({answer.wait().text for answer in (one, two, three)}) == 3
    assert answers.ask("base", "Hello!", seed=8, **warm).wait().text == two.text
    assert answers.ask("base", "Hello!", **warm).wait().text != alone.text


def test_an_answer_ends_at_its_limit_or_at_a_stop_sequence(
    engine: Engine, served: ServedMaker, answers: Answers
) -> None:
    engine.attach(served("base"))
    whole = answers.ask("base", "Hello!", max_tokens=40).wait()
    assert (whole.finish_reason, len(whole.tokens)) == ("length", 40)
    stop = whole.text[20:26]  # of several tokens
    stopped = answers.ask("base", "Hello!", max_tokens=40, stop=("never", stop)).wait()
    assert stopped.finish_reason == "stop"
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.pieces[-1].completion_tokens == len(stopped.tokens) < 40


def test_without_a_limit_an_answer_ends_at_the_context_length(
    engine: Engine, served: ServedMaker, answers: Answers
) -> None:
    engine.attach(served("base"))
    answer = answers.ask("base", "the quick brown fox " * 9).wait()
    assert answer.asked is not None
    assert answer.asked.prompt_tokens + len(answer.tokens) == 256
    assert answer.finish_reason == "length"


def test_a_prompt_that_fills_the_context_is_refused(
    engine: Engine, served: ServedMaker, answers: Answers
) -> None:
    engine.attach(served("base"))
    with pytest.raises(ContextExceeded, match="256") as refused:
        answers.ask("base", "the quick brown fox " * 100)
    assert refused.value.field == "messages"


def test_a_full_queue_refuses_and_a_cancelled_answer_frees_its_slot(
    served: ServedMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = Semaphore(0)
    step = Batch.step
    monkeypatch.setattr(Batch, "step", lambda self: (allowed.acquire(), step(self)))
    engine = Engine(EngineOptions(rows=1, queue_limit=1, precision="fp32", device="cpu"))
    answers = Answers(engine)
    try:
        engine.attach(served("base"))
        (rows,) = engine._batches.values()
        first = answers.ask("base", "Hello!")
        allowed.release()
        eventually(lambda: not rows.queue)
        waiting = answers.ask("base", "Thanks.", max_tokens=3)
        with pytest.raises(QueueFull):
            answers.ask("base", "Good morning.")
        assert waiting.asked is not None
        waiting.asked.cancel()
        allowed.release()
        eventually(lambda: not rows.queue)
        second = answers.ask("base", "Thanks.", max_tokens=3)
        assert first.asked is not None
        first.asked.cancel()
        allowed.release(10)
        assert len(second.wait().tokens) == 3
        assert not first.ended.is_set()
        assert not waiting.begun.is_set()
    finally:
        allowed.release(100)
        engine.close()


def test_one_account_cannot_fill_the_queue(
    served: ServedMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = Semaphore(0)
    step = Batch.step
    monkeypatch.setattr(Batch, "step", lambda self: (allowed.acquire(), step(self)))
    engine = Engine(EngineOptions(rows=1, queue_limit=4, precision="fp32", device="cpu"))
    answers = Answers(engine)
    try:
        engine.attach(served("base"))
        asked = [answers.ask("base", "Hello!", max_tokens=1) for _ in range(3)]
        with pytest.raises(AccountQueueFull, match="2"):
            answers.ask("base", "Hello!")
        asked.append(answers.ask("base", "Hello!", max_tokens=1, account_id=UUID(int=7)))
        allowed.release(100)
        for each in asked:
            each.wait()
    finally:
        allowed.release(100)
        engine.close()


def test_a_flood_of_one_account_does_not_delay_another(
    served: ServedMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in steps: another account's answer starts at once, though all rows are taken."""
    allowed, other = Semaphore(0), UUID(int=7)
    step, wanted, work = Batch.step, Batch._wanted, []
    monkeypatch.setattr(Batch, "step", lambda self: (allowed.acquire(), step(self)))

    def counted(self: Batch) -> list[Part]:
        parts = wanted(self)
        read = {SPACE: 0, other: 0}
        for part in parts:
            read[self._rows[part.slot].account_id] += len(part.tokens)
        work.append(read)
        return parts

    monkeypatch.setattr(Batch, "_wanted", counted)
    engine = Engine(EngineOptions(rows=4, queue_limit=64, precision="fp32", device="cpu"))
    answers = Answers(engine)
    try:
        engine.attach(served("base"))
        long = "the quick brown fox jumps over a lazy dog " * 4
        flood = answers.ask_for(16, "base", long, max_tokens=90)
        allowed.release(5)
        eventually(lambda: len(work) == 5)
        answer = answers.ask("base", "Hello!", max_tokens=5, account_id=other)
        allowed.release(7)
        assert len(answer.wait().tokens) == 5
        beside = [each[SPACE] for each in work if each[other]]
        assert max(beside) <= FAIR_READ + FAIR_ROWS
        assert not any(each.ended.is_set() for each in flood)
        allowed.release(10_000)
        for each in flood:
            assert each.wait().tokens == flood[0].tokens, "greedy, and so the same"
    finally:
        allowed.release(10_000)
        engine.close()


def test_removed_adapters_free_their_matrices(
    engine: Engine, served: ServedMaker, answers: Answers, adapters: tuple[Path, Path]
) -> None:
    for name, adapter in zip(("first", "second"), adapters, strict=True):
        engine.attach(served(name, adapter))
        answers.ask(name, "Hello!", max_tokens=3).wait()
    engine.attach(served("base"))
    (batch,) = engine._batches.values()
    layers = [each for each in batch.base.weights.modules() if isinstance(each, MultiLoraLinear)]
    assert any(layer._stacked[1] is not None for layer in layers)
    for name in ("first", "second"):
        engine.detach(deployment_of(name))
    eventually(lambda: all(layer._stacked[1] is None for layer in layers))


def test_a_failed_step_fails_only_its_own_answers(
    engine: Engine, served: ServedMaker, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.attach(served("base"))
    with monkeypatch.context() as patch:
        patch.setattr(BaseModel, "logits", lambda *_: 1 / 0)
        assert isinstance(answers.ask("base", "Hello!").wait().error, ZeroDivisionError)
    assert answers.ask("base", "Hello!", max_tokens=3).wait().error is None


def test_an_answer_with_nan_fails_and_does_not_affect_the_next_row(
    engine: Engine,
    served: ServedMaker,
    answers: Answers,
    adapters: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    """Weights so large that products overflow, beside other rows and then in the same slot."""
    for name, adapter in (("base", None), ("first", adapters[0])):
        engine.attach(served(name, adapter))
    asked = {"first": QUESTIONS[3], "base": "Hello!"}  # the last one takes the free slot
    expected = [answers.ask(*each, max_tokens=30).wait().tokens for each in asked.items()]
    huge = _with_weights(adapters[1], tmp_path / "huge", lambda weight: weight.sign() * 1e30)
    engine.attach(served("huge", huge))
    broken = answers.ask("huge", QUESTIONS[1])
    others = [answers.ask(*each, max_tokens=30) for each in asked.items()]
    assert isinstance(broken.wait().error, NotFinite)
    assert [answer.wait().tokens for answer in others] == expected
    nothing = _with_weights(adapters[1], tmp_path / "nan", lambda weight: weight * torch.nan)
    with pytest.raises(CannotServe) as refused:
        engine.attach(served("nan", nothing))
    assert refused.value.code == "adapter_not_finite"


def _with_weights(adapter: Path, copy: Path, change: Callable[[Tensor], Tensor]) -> Path:
    shutil.copytree(adapter, copy)
    path = copy / "adapter_model.safetensors"
    save_file({name: change(each) for name, each in load_file(path).items()}, path)
    return copy


def test_a_failure_in_one_answer_fails_only_that_answer(
    engine: Engine, served: ServedMaker, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.attach(served("base"))
    expected = answers.ask("base", "Hello!", max_tokens=30).wait().tokens
    monkeypatch.setattr(Sampler, "sample", lambda *_: 1 / 0)
    failing = answers.ask("base", "Hello!", temperature=1.0)
    other = answers.ask("base", "Hello!", max_tokens=30)
    assert isinstance(failing.wait().error, ZeroDivisionError)
    assert other.wait().tokens == expected


def test_exhausted_memory_does_not_refuse_an_adapter_or_change_the_base(
    engine: Engine,
    served: ServedMaker,
    answers: Answers,
    adapters: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine.attach(served("first", adapters[0]))
    before = answers.ask("first", "Hello!", max_tokens=10).wait().tokens
    with monkeypatch.context() as patch:
        patch.setattr(MultiLoraLinear, "to", no_room)
        patch.setattr(torch.nn.Linear, "to", no_room)
        with pytest.raises(torch.OutOfMemoryError):
            engine.attach(served("second", adapters[1]))
    assert answers.ask("first", "Hello!", max_tokens=10).wait().tokens == before
    engine.attach(served("second", adapters[1]))
    assert answers.ask("second", "Hello!", max_tokens=10).wait().error is None


def no_room(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"peft_type": "LOHA"}, "unsupported_adapter"),
        ({"use_dora": True}, "unsupported_adapter"),
        ({"r": 9}, "adapter_mismatch"),
        ({"target_modules": ["embed_tokens"]}, "unsupported_adapter"),
    ],
)
def test_an_invalid_adapter_is_refused_and_does_not_change_the_base(
    engine: Engine,
    served: ServedMaker,
    answers: Answers,
    adapters: tuple[Path, Path],
    tmp_path: Path,
    change: dict,
    code: str,
) -> None:
    engine.attach(served("first", adapters[0]))
    before = answers.ask("first", "Hello!", max_tokens=10).wait().tokens
    broken = shutil.copytree(adapters[1], tmp_path / "broken")
    config = json.loads((broken / "adapter_config.json").read_text())
    (broken / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(CannotServe) as refused:
        engine.attach(served("broken", broken))
    assert refused.value.code == code
    assert answers.ask("first", "Hello!", max_tokens=10).wait().tokens == before
    with pytest.raises(NotLoaded):
        answers.ask("broken", "Hello!")
