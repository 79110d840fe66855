"""The answer to the fixed prompt at checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from domain.training.hyperparameters import Hyperparameters
from infrastructure.training.reports import SAMPLE
from services.trainer import sampling as sampling_module
from services.trainer.clock import SegmentClock
from services.trainer.examples import Renderer
from services.trainer.lease import Lease
from services.trainer.model import CPU, attach_adapter, load_base, load_tokenizer
from services.trainer.sampling import FIRST_SECONDS, NEW_TOKENS, SHARE, Sampling
from tests.builders.tiny_model import chats
from tests.services.trainer.segments import Trainer

RUNNING = Lease(SegmentClock(0.0), math.inf, math.inf)
STOPPED = Lease(SegmentClock(0.0), 0.0, math.inf)
QUESTION = [
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Good morning."},
    {"role": "user", "content": "Who are you?"},
]
CHAT = {
    "messages": [
        *QUESTION,
        {"role": "assistant", "content": "I am fine."},
        {"role": "user", "content": "Thanks."},
    ]
}


class Clock:
    """A clock that advances by a second at each call."""

    seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1
        return self.seconds


@pytest.fixture
def model(tiny_model: Path) -> PeftModel:
    torch.manual_seed(1)
    return attach_adapter(load_base(tiny_model, torch.float32), Hyperparameters(), "tiny")


def sampling(tiny_model: Path, limit: int = 256, clock: Clock | None = None) -> Sampling:
    renderer = Renderer(load_tokenizer(tiny_model), limit)
    return Sampling(renderer, CHAT, renderer.render(CHAT), CPU, clock or Clock())


def test_the_sample_is_the_greedy_answer_to_the_last_question(
    tiny_model: Path, model: PeftModel
) -> None:
    before = torch.get_rng_state()
    sample = sampling(tiny_model).sample(model, RUNNING)
    assert torch.equal(torch.get_rng_state(), before)
    assert sample is not None
    assert sample.prompt == QUESTION
    tokenizer = load_tokenizer(tiny_model)
    text = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    encoding = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    generated = model.generate(**encoding, max_new_tokens=NEW_TOKENS, do_sample=False)
    answer = generated[0, encoding["input_ids"].shape[1] :]
    assert sample.answer == tokenizer.decode(answer, skip_special_tokens=True).strip()


def test_an_answer_ends_with_the_end_token_of_the_template(
    tiny_model: Path, model: PeftModel
) -> None:
    tokenizer = load_tokenizer(tiny_model)
    word = tokenizer("Hello", add_special_tokens=False)["input_ids"]
    predicted = iter([*word, tokenizer.convert_tokens_to_ids("<|im_end|>"), *word])
    real = model.forward

    def forward(*arguments, **named):
        output = real(*arguments, **named)
        output.logits[0, -1, next(predicted)] = 1000.0
        return output

    model.forward = forward
    sample = sampling(tiny_model).sample(model, RUNNING)
    assert sample is not None
    assert sample.answer == "Hello"


def test_a_long_prompt_or_a_stop_gives_no_sample(tiny_model: Path, model: PeftModel) -> None:
    assert sampling(tiny_model, limit=NEW_TOKENS + 5).sample(model, RUNNING) is None
    assert sampling(tiny_model).sample(model, STOPPED) is None


def test_the_interval_of_samples_follows_their_cost(tiny_model: Path, model: PeftModel) -> None:
    clock = Clock()
    given = sampling(tiny_model, clock=clock)
    assert not given.due
    clock.seconds = FIRST_SECONDS + 1
    assert given.due
    began = clock.seconds
    given.sample(model, RUNNING)
    cost = clock.seconds - began - 1
    clock.seconds = began + cost + cost / SHARE - 2
    assert not given.due
    clock.seconds += 4
    assert given.due


def test_the_last_checkpoint_always_has_a_sample_and_samples_change_nothing(
    trainer: Trainer,
) -> None:
    def train() -> tuple[dict[int, dict], str]:
        """Return the samples by step, and the adapter's hash."""
        spec, samples = trainer.spec({"save_steps": 4, "dropout": 0.1}), {}
        for saved in trainer.run(spec).checkpoints:
            if trainer.artifacts.exists(f"{saved.ref}/{SAMPLE}"):
                samples[saved.step] = json.loads(trainer.artifacts.get(f"{saved.ref}/{SAMPLE}"))
        return samples, trainer.adapter_sha256(spec)

    rarely, adapter = train()
    assert list(rarely) == [10]
    assert rarely[10]["prompt"] in [row["messages"][:1] for row in chats(20)]
    trainer.patch.setattr(sampling_module, "FIRST_SECONDS", 0.0)
    trainer.patch.setattr(sampling_module, "SHARE", 1e9)
    often, same = train()
    assert list(often) == [4, 8, 10]
    assert (often[10], same) == (rarely[10], adapter)


def test_a_failed_sample_costs_neither_the_checkpoint_nor_the_job(trainer: Trainer) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")

    def fail(*_: object) -> None:
        raise error

    trainer.patch.setattr(Sampling, "_answer", fail)
    spec = trainer.spec({"epochs": 1})
    run = trainer.run(spec)
    assert run.saved_steps == [5]
    assert not trainer.artifacts.exists(f"{run.checkpoints[0].ref}/{SAMPLE}")
    assert trainer.artifacts.manifest(spec.adapter_prefix).files
    assert run.warns(repr(error))
