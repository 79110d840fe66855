"""Answers equal those of transformers and PEFT, whatever else is in the batch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

from services.serving import batch
from services.serving.base_model import BaseModel
from services.serving.batch import FAIR_READ, FAIR_ROWS, Batch, NotFinite
from services.serving.deployed import CannotServe
from services.serving.multi_lora import MultiLoraLinear
from services.serving.refusals import AccountQueueFull, ContextExceeded, NotLoaded, QueueFull
from services.serving.sampler import Sampler
from services.serving.step import Part
from tests.builders.serving import open_engine
from tests.polling import eventually
from tests.services.serving.answers import SPACE, Answers

FOX = "the quick brown fox jumps over a lazy dog "
QUESTIONS = (
    "Hello!",
    "What is the capital of France? " * 5,
    "Good morning, good evening.",
    FOX * 4,
    "Thanks.",
)
OTHER = UUID(int=7)

Adapters = tuple[Path, Path]


def generated(base: Path, adapter: Path | None, question: str, new_tokens: int) -> list[int]:
    """Return the greedy answer of the libraries."""
    model = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    prompt = AutoTokenizer.from_pretrained(base).apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.inference_mode():
        output = model.eval().generate(**prompt, max_new_tokens=new_tokens, do_sample=False)
    return output[0, prompt["input_ids"].shape[1] :].tolist()


@pytest.mark.full
def test_mixed_requests_are_answered_as_by_peft(
    answers: Answers, adapters: Adapters, dora_adapter: Path
) -> None:
    """The base and three adapters in one batch. Prompts of several lengths join one by one."""
    models = {"base": None, "first": adapters[0], "second": adapters[1], "dora": dora_adapter}
    for name, adapter in models.items():
        answers.attach(name, adapter)
    begun = []
    for number, question in enumerate(QUESTIONS):
        for name in models:
            begun.append((name, question, answers.ask(name, question, max_tokens=24 + number)))
        begun[-1][2].begun.wait(60)
    said = []
    for number, (name, question, answer) in enumerate(begun):
        expected = generated(answers.base, models[name], question, 24 + number // len(models))
        assert answer.wait().tokens == expected, (name, question)
        said.append(tuple(expected))
    assert len(set(said)) > len(QUESTIONS)  # the adapters change the answers


@pytest.mark.full
def test_long_prompts_and_little_memory_change_nothing(
    tiny_model: Path, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts are read in pieces, and rows that are sent back read again."""
    monkeypatch.setattr(batch, "READ_AT_ONCE", 16)
    monkeypatch.setattr(batch, "READ_ALONE", 24)
    sent_back = []
    send_back = Batch._send_back
    monkeypatch.setattr(
        Batch, "_send_back", lambda self, row: (sent_back.append(row), send_back(self, row))
    )
    models = {"base": None, "first": adapters[0]}
    # Three rows of 128 tokens, of 2 layers, 2 heads and 8 numbers of 4 bytes.
    with open_engine(rows=4, cache_bytes=3 * 128 * 2 * 2 * 2 * 8 * 4) as engine:
        answers = Answers(engine, tiny_model)
        for name, adapter in models.items():
            answers.attach(name, adapter)
        given = [
            (name, times, answers.ask(name, FOX * times, max_tokens=90))
            for name, times in (("base", 1), ("first", 6), ("first", 2), ("base", 5), ("base", 3))
        ]
        for name, times, answer in given:
            expected = generated(tiny_model, models[name], FOX * times, 90)
            assert answer.wait().tokens == expected
    assert sent_back


def test_models_are_attached_and_detached_while_others_answer(
    answers: Answers, adapters: Adapters
) -> None:
    answers.attach("first", adapters[0])
    before = answers.ask("first", "Hello!", max_tokens=100)
    before.begun.wait(60)
    answers.attach("second", adapters[1])  # on the running base
    second = answers.ask("second", "Hello!", max_tokens=20).wait()
    assert answers.batch, "a base is loaded once"
    answers.detach("first")
    with pytest.raises(NotLoaded):
        answers.ask("first", "Hello!")
    assert len(before.wait().tokens) == 100  # running answers end normally
    answers.attach("first", adapters[0])
    assert answers.ask("first", "Hello!", max_tokens=100).wait().tokens == before.tokens
    answers.attach("first", adapters[1])  # replaced by other weights
    assert answers.ask("first", "Hello!", max_tokens=20).wait().tokens == second.tokens
    for name in ("first", "second", "unknown"):
        answers.detach(name)
    assert answers.engine._batches == {}


def test_seeds_choices_and_temperature(answers: Answers) -> None:
    answers.attach()
    warm = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 20}
    one, two, three = answers.ask_for(3, "base", "Hello!", seed=7, **warm)
    alone = answers.ask("base", "Hello!", seed=7, **warm).wait()
    assert one.wait().text == alone.text
    assert len({answer.wait().text for answer in (one, two, three)}) == 3
    assert answers.ask("base", "Hello!", seed=8, **warm).wait().text == two.text
    assert answers.ask("base", "Hello!", **warm).wait().text != alone.text


def test_an_answer_ends_at_its_limit_or_at_a_stop_sequence(answers: Answers) -> None:
    answers.attach()
    whole = answers.ask("base", "Hello!", max_tokens=40).wait()
    assert (whole.finish_reason, len(whole.tokens)) == ("length", 40)
    stop = whole.text[20:26]  # of several tokens
    stopped = answers.ask("base", "Hello!", max_tokens=40, stop=("never", stop)).wait()
    assert stopped.finish_reason == "stop"
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.pieces[-1].completion_tokens == len(stopped.tokens) < 40


def test_an_answer_ends_at_the_context_length(answers: Answers) -> None:
    answers.attach()
    answer = answers.ask("base", "the quick brown fox " * 9).wait()
    assert answer.handle.prompt_tokens + len(answer.tokens) == 256
    assert answer.finish_reason == "length"
    with pytest.raises(ContextExceeded, match="256") as refused:
        answers.ask("base", "the quick brown fox " * 100)
    assert refused.value.field == "messages"


@contextmanager
def stepping(
    base: Path, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> Iterator[tuple[Answers, Semaphore]]:
    """Open an engine whose steps a semaphore allows."""
    allowed, step = Semaphore(0), Batch.step
    monkeypatch.setattr(Batch, "step", lambda self: (allowed.acquire(), step(self)))
    with open_engine(**options) as engine:
        answers = Answers(engine, base)
        try:
            answers.attach()
            yield answers, allowed
        finally:
            allowed.release(10_000)


def test_a_full_queue_refuses_and_a_cancelled_answer_frees_its_slot(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stepping(tiny_model, monkeypatch, rows=1, queue_limit=1) as (answers, allowed):
        first = answers.ask("base", "Hello!")
        allowed.release()
        eventually(lambda: not answers.batch.queue)
        waiting = answers.ask("base", "Thanks.", max_tokens=3)
        with pytest.raises(QueueFull):
            answers.ask("base", "Good morning.")
        waiting.handle.cancel()
        allowed.release()
        eventually(lambda: not answers.batch.queue)
        second = answers.ask("base", "Thanks.", max_tokens=3)
        first.handle.cancel()
        allowed.release(10)
        assert len(second.wait().tokens) == 3
        assert not first.ended.is_set()
        assert not waiting.begun.is_set()


def test_one_account_cannot_fill_the_queue(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stepping(tiny_model, monkeypatch, rows=1, queue_limit=4) as (answers, allowed):
        begun = [answers.ask("base", "Hello!", max_tokens=1) for _ in range(3)]
        with pytest.raises(AccountQueueFull, match="2"):
            answers.ask("base", "Hello!")
        begun.append(answers.ask("base", "Hello!", max_tokens=1, account_id=OTHER))
        allowed.release(100)
        for each in begun:
            each.wait()


@pytest.mark.full
def test_a_flood_of_one_account_does_not_delay_another(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another account's answer starts in the next step, though all rows are taken."""
    wanted, work = Batch._wanted, []

    def counted(self: Batch) -> list[Part]:
        parts = wanted(self)
        read = {SPACE: 0, OTHER: 0}
        for part in parts:
            read[self._rows[part.slot].account_id] += len(part.tokens)
        work.append(read)
        return parts

    monkeypatch.setattr(Batch, "_wanted", counted)
    with stepping(tiny_model, monkeypatch, rows=4, queue_limit=64) as (answers, allowed):
        flood = answers.ask_for(16, "base", FOX * 4, max_tokens=90)
        allowed.release(5)
        eventually(lambda: len(work) == 5)
        answer = answers.ask("base", "Hello!", max_tokens=5, account_id=OTHER)
        allowed.release(7)
        assert len(answer.wait().tokens) == 5
        beside = [each[SPACE] for each in work if each[OTHER]]
        assert max(beside) <= FAIR_READ + FAIR_ROWS
        assert not any(each.ended.is_set() for each in flood)
        allowed.release(10_000)
        for each in flood:
            assert each.wait().text == flood[0].text, "greedy, and so the same"


def test_removed_adapters_free_their_matrices(answers: Answers, adapters: Adapters) -> None:
    names = ("first", "second")
    for name, adapter in zip(names, adapters, strict=True):
        answers.attach(name, adapter)
        answers.ask(name, "Hello!", max_tokens=3).wait()
    answers.attach()
    modules = answers.batch.base.weights.modules()
    layers = [each for each in modules if isinstance(each, MultiLoraLinear)]
    assert any(layer._stacked[1] is not None for layer in layers)
    for name in names:
        answers.detach(name)
    eventually(lambda: all(layer._stacked[1] is None for layer in layers))


def test_a_failed_step_fails_only_its_own_answers(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers.attach()
    with monkeypatch.context() as patch:
        patch.setattr(BaseModel, "logits", lambda *_: 1 / 0)
        assert isinstance(answers.ask("base", "Hello!").wait().error, ZeroDivisionError)
    assert answers.ask("base", "Hello!", max_tokens=3).wait().error is None


def test_a_failure_in_one_answer_fails_only_that_answer(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers.attach()
    expected = answers.ask("base", "Hello!", max_tokens=30).wait().tokens
    monkeypatch.setattr(Sampler, "sample", lambda *_: 1 / 0)
    failing = answers.ask("base", "Hello!", temperature=1.0)
    other = answers.ask("base", "Hello!", max_tokens=30)
    assert isinstance(failing.wait().error, ZeroDivisionError)
    assert other.wait().tokens == expected


def test_an_answer_with_nan_fails_and_does_not_affect_the_next_row(
    answers: Answers, adapters: Adapters, tmp_path: Path
) -> None:
    """Weights so large that products overflow, beside other rows and then in the same slot."""
    answers.attach()
    answers.attach("first", adapters[0])
    asked = {"first": QUESTIONS[3], "base": "Hello!"}  # the last one takes the free slot
    expected = [answers.ask(*each, max_tokens=30).wait().tokens for each in asked.items()]
    answers.attach("huge", _changed(adapters[1], tmp_path / "huge", lambda w: w.sign() * 1e30))
    broken = answers.ask("huge", QUESTIONS[1])
    others = [answers.ask(*each, max_tokens=30) for each in asked.items()]
    assert isinstance(broken.wait().error, NotFinite)
    assert [answer.wait().tokens for answer in others] == expected
    with pytest.raises(CannotServe) as refused:
        answers.attach("nan", _changed(adapters[1], tmp_path / "nan", lambda w: w * torch.nan))
    assert refused.value.code == "adapter_not_finite"


def _changed(adapter: Path, copy: Path, change: Callable[[Tensor], Tensor]) -> Path:
    shutil.copytree(adapter, copy)
    path = copy / "adapter_model.safetensors"
    save_file({name: change(each) for name, each in load_file(path).items()}, path)
    return copy


def test_exhausted_memory_does_not_refuse_an_adapter_or_change_the_base(
    answers: Answers, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    answers.attach("first", adapters[0])
    before = answers.ask("first", "Hello!", max_tokens=10).wait().tokens
    with monkeypatch.context() as patch:
        patch.setattr(MultiLoraLinear, "to", exhausted)
        patch.setattr(torch.nn.Linear, "to", exhausted)
        with pytest.raises(torch.OutOfMemoryError):
            answers.attach("second", adapters[1])
    assert answers.ask("first", "Hello!", max_tokens=10).wait().tokens == before
    answers.attach("second", adapters[1])
    assert answers.ask("second", "Hello!", max_tokens=10).wait().error is None


def test_an_invalid_adapter_is_refused_and_does_not_change_the_base(
    answers: Answers, adapters: Adapters, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    answers.attach("first", adapters[0])
    before = answers.ask("first", "Hello!", max_tokens=10).wait().tokens
    for change, code in (
        ({"peft_type": "LOHA"}, "unsupported_adapter"),
        ({"use_dora": True}, "adapter_mismatch"),
        ({"r": 9}, "adapter_mismatch"),
        ({"target_modules": ["embed_tokens"]}, "unsupported_adapter"),
    ):
        with subtests.test(str(change)):
            broken = shutil.copytree(adapters[1], tmp_path / "broken", dirs_exist_ok=True)
            config = json.loads((broken / "adapter_config.json").read_text())
            (broken / "adapter_config.json").write_text(json.dumps(config | change))
            with pytest.raises(CannotServe) as refused:
                answers.attach("broken", broken)
            assert refused.value.code == code
            assert answers.ask("first", "Hello!", max_tokens=10).wait().tokens == before
            with pytest.raises(NotLoaded):
                answers.ask("broken", "Hello!")
