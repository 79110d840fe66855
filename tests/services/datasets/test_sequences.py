"""The estimate has the trainer's examples, steps and tokens, also if a template splits chats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from domain.catalog.model_shape import ModelShape
from domain.estimating.estimate import Work
from domain.training.hyperparameters import Hyperparameters
from domain.training.token_lengths import BOUNDS, TokenLengths
from infrastructure.chat.base_tokenizer import FILES, BaseTokenizer
from services.datasets.tokens import count_tokens
from services.trainer import dataset
from services.trainer.examples import Renderer
from services.trainer.pairs import Item, all_sequences
from services.trainer.plan import Plan
from tests.builders.tiny_model import CHAT_TEMPLATE, TINY_SHAPE, make_tiny_tokenizer
from tests.services.datasets.uploads import chat, jsonl, user

EMPTY_THOUGHTS = (
    "{% for message in messages %}<|im_start|>{{ message.role + '\n' }}"
    "{% if message.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Only the last answer has an empty block of thoughts, as in Qwen3."""

CHATS = 50
SHAPE: ModelShape = TINY_SHAPE.model_copy(update={"context_length": 4096})


def lines_of(answers: int, chats: int = CHATS) -> list[bytes]:
    turns = [user("How are you?"), {"role": "assistant", "content": "I am well, thank you."}]
    return jsonl(*[chat(*turns * answers)] * chats).splitlines()


def write(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"\n".join(lines))
    return path


def counted(template: str, directory: Path, lines: list[bytes]) -> TokenLengths:
    make_tiny_tokenizer(template).save_pretrained(directory)
    files = {name: directory / name for name in FILES}
    base = BaseTokenizer({name: path.read_bytes() for name, path in files.items() if path.exists()})
    return count_tokens(lines, base)


def no_check() -> None:
    """Let the trainer go on."""


def check(job: Work, trained: list[Item], held_out: list[Item]) -> None:
    fields = job.hyperparameters
    plan = Plan(
        tuple(len(each.input_ids) for each in all_sequences(trained)),
        fields.epochs,
        fields.micro_batch_size,
        fields.gradient_accumulation,
        fields.seed,
    )
    assert (job.trained_on, job.held_out) == (len(trained), len(held_out))
    assert job.total_steps(1) == plan.total_steps
    assert job.trained_tokens == fields.epochs * sum(plan.lengths)


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, EMPTY_THOUGHTS], ids=["whole", "split"])
@pytest.mark.parametrize("answers", [1, 2, 5])
@pytest.mark.parametrize("limit", [BOUNDS[-1], max(each for each in BOUNDS if each < 100)])
def test_the_estimate_plans_what_the_trainer_does(
    template: str, answers: int, limit: int, tmp_path: Path
) -> None:
    lines = lines_of(answers)
    lengths = counted(template, tmp_path, lines)
    limit = min(limit, lengths.longest)
    renderer = Renderer(PreTrainedTokenizerFast.from_pretrained(tmp_path), limit)
    fields = Hyperparameters(epochs=2)
    split, _ = dataset._split(write(tmp_path / "d", lines), renderer, fields.seed, no_check)
    job = Work(SHAPE, lengths, fields, limit, conversations=CHATS)
    check(job, split.train, split.held_out)


def test_a_validation_dataset_has_several_examples_for_each_chat(tmp_path: Path) -> None:
    lines, own = lines_of(3), lines_of(4, 300)
    lengths, validation = (counted(EMPTY_THOUGHTS, tmp_path, each) for each in (lines, own))
    limit = max(lengths.longest, validation.longest)
    renderer = Renderer(PreTrainedTokenizerFast.from_pretrained(tmp_path), limit)
    fields = Hyperparameters()
    paths = write(tmp_path / "d", lines), write(tmp_path / "v", own)
    found, _ = dataset._with_validation(*paths, renderer, fields.seed, no_check)
    job = Work(
        SHAPE,
        lengths,
        fields,
        limit,
        validation,
        conversations=CHATS,
        validation_conversations=300,
    )
    check(job, found.train, found.held_out)


def test_sequences_without_a_trainable_token_do_not_count(tmp_path: Path) -> None:
    turns = [user("Why?"), {"role": "assistant", "content": "So.", "weight": 0}]
    chats = [chat(*turns, *turns), chat(*turns, user("And?"), {**turns[1], "weight": 1})]
    lengths = counted(EMPTY_THOUGHTS, tmp_path, jsonl(*chats).splitlines())
    assert lengths.examples == 2, "the first chat as a whole, and the last answer of the other"
    assert lengths.labels is not None
    assert (lengths.labels.first.examples, len(lengths.labels.least)) == (1, 1)


def test_only_the_last_message_of_an_answer_of_a_pair_counts(tmp_path: Path) -> None:
    asked, called = user("Look."), {"role": "assistant", "content": "One moment."}
    said = {"role": "assistant", "content": "Done."}
    pair = {
        "input": {"messages": [asked]},
        "preferred_output": [called, said],
        "non_preferred_output": [said],
    }
    lengths = counted(EMPTY_THOUGHTS, tmp_path, [json.dumps(pair).encode()])
    renderer = Renderer(PreTrainedTokenizerFast.from_pretrained(tmp_path), 1000)
    (items,) = renderer.render_all([pair], no_check).conversations
    sequences = all_sequences(items)
    assert lengths.labels is not None
    assert lengths.labels.tokens == sum(each.label_tokens for each in sequences)
    assert lengths.tokens == sum(len(each.input_ids) for each in sequences)
