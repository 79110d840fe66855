"""Uploads of preference pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from domain.datasets.columns import Role
from domain.datasets.dataset import DatasetKind, DatasetStatus
from infrastructure.chat.base_tokenizer import FILES, BaseTokenizer
from infrastructure.datasets.preference_columns import conversations_of
from services.datasets.report import Code
from services.datasets.tokens import count_tokens
from tests.services.datasets.formats import PAIRS, SYSTEM, array, jsonl, parquet, table
from tests.services.datasets.formats import validated_file as validated

Pair = dict[str, Any]
WORSE = "I do not know."


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def pair_of(question: str, answer: str, worse: str = WORSE) -> Pair:
    """Return a pair in OpenAI's format, with a system message."""
    return {
        "input": {"messages": [{"role": "system", "content": SYSTEM}, user(question)]},
        "preferred_output": [assistant(answer)],
        "non_preferred_output": [assistant(worse)],
    }


CORPUS = [pair_of(*each) for each in PAIRS]


def texts(pair: Pair) -> tuple[str, str, str]:
    """Return the question and both answers of a pair."""
    answers = (pair[key][0]["content"] for key in ("preferred_output", "non_preferred_output"))
    return (pair["input"]["messages"][1]["content"], *answers)


def explicit(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return rows of TRL with messages and a prompt."""
    return [
        {
            "prompt": pair["input"]["messages"],
            "chosen": pair["preferred_output"],
            "rejected": pair["non_preferred_output"],
        }
        for pair in pairs
    ]


def implicit(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return rows of TRL whose prompt is the beginning of both conversations."""
    return [
        {name: [*row["prompt"], *row[name]] for name in ("chosen", "rejected")}
        for row in explicit(pairs)
    ]


def strings(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return rows of TRL with strings, and a column for the system prompt."""
    names = ("prompt", "chosen", "rejected")
    return [dict(zip(names, texts(pair), strict=True), system=SYSTEM) for pair in pairs]


def whole(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return rows with whole conversations and the question as text, as in UltraFeedback."""
    return [
        {"prompt": texts(pair)[0], **row, "messages": row["chosen"], "score_chosen": 8.5}
        for pair, row in zip(pairs, implicit(pairs), strict=True)
    ]


def in_cells(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    return [{name: json.dumps(value) for name, value in row.items()} for row in implicit(pairs)]


FORMATS: dict[str, Callable[[Sequence[Pair]], bytes]] = {
    "OpenAI": jsonl,
    "OpenAI, JSON array": array,
    "OpenAI, Parquet": parquet,
    "TRL": lambda pairs: jsonl(explicit(pairs)),
    "TRL, implicit prompt": lambda pairs: jsonl(implicit(pairs)),
    "TRL, strings": lambda pairs: jsonl(strings(pairs)),
    "TRL, Parquet": lambda pairs: parquet(explicit(pairs)),
    "TRL, implicit prompt, Parquet": lambda pairs: parquet(implicit(pairs)),
    "whole conversations": lambda pairs: jsonl(whole(pairs)),
    "whole conversations, Parquet": lambda pairs: parquet(whole(pairs)),
    "CSV": lambda pairs: table(strings(pairs)),
    "TSV": lambda pairs: table(strings(pairs), "\t"),
    "CSV with messages": lambda pairs: table(in_cells(pairs)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_one_corpus_of_pairs_has_one_hash_in_every_format(name: str) -> None:
    expected, examples, _ = validated(jsonl(CORPUS))
    assert examples == CORPUS
    report, _, sample = validated(FORMATS[name](CORPUS))
    assert report.errors == ()
    assert report.kind is DatasetKind.PREFERENCES
    assert (report.sha256, report.examples) == (expected.sha256, len(CORPUS))
    assert len(sample["rows"]) == 3


def test_chats_are_no_pairs() -> None:
    report, _, _ = validated(jsonl([{"messages": [user("a"), assistant("b")]}]))
    assert report.kind is DatasetKind.CHATS


def test_conversations_in_text_become_messages() -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"
    rows = [{"chosen": f"{start} Because.", "rejected": f"{start} No."}]
    _, (pair,), _ = validated(jsonl(rows))
    assert pair["input"]["messages"] == [user("Hi"), assistant("Hello"), user("Why?")]
    assert pair["preferred_output"] == [assistant("Because.")]


def test_columns_of_a_table_may_be_chosen() -> None:
    rows = [{"q": q, "good": good, "bad": WORSE} for q, good in PAIRS]
    columns = {Role.USER: "q", Role.CHOSEN: "good", Role.REJECTED: "bad"}
    report, examples, _ = validated(table(rows), columns)
    assert report.kind is DatasetKind.PREFERENCES
    assert [each["preferred_output"][0]["content"] for each in examples] == [a for _, a in PAIRS]


def test_tools_and_calls_of_pairs_are_checked() -> None:
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
    call = {"id": "c", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    row = pair_of("a", "b")
    row["input"] |= {"tools": [tool], "parallel_tool_calls": True}
    row["preferred_output"] = [{"role": "assistant", "tool_calls": [call]}]
    report, (pair,), _ = validated(jsonl([row]))
    assert pair["input"]["tools"] == [tool]
    assert report.examples_with_tools == 1
    call["function"]["name"] = "lose"
    assert _error(row) == Code.UNKNOWN_TOOL


BAD_PAIRS = {
    "equal answers": (pair_of("a", "b", "b"), Code.EQUAL_ANSWERS),
    "equal conversations": (
        {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("b")]},
        Code.EQUAL_ANSWERS,
    ),
    "no answer": (pair_of("a", "b") | {"non_preferred_output": []}, Code.MISSING_ANSWER),
    "an answer that is null": ({"prompt": "a", "chosen": "b", "rejected": None}, "missing_answer"),
    "an answer without an assistant": (
        pair_of("a", "b") | {"preferred_output": [{"role": "tool", "content": "x"}]},
        Code.NO_ASSISTANT,
    ),
    "no prompt": ({"chosen": "b", "rejected": "c"}, Code.BAD_PROMPT),
    "an empty prompt": ({"prompt": " ", "chosen": "b", "rejected": "c"}, Code.BAD_PROMPT),
    "prompts that differ": (
        {"chosen": [user("a"), assistant("b")], "rejected": [user("x"), assistant("c")]},
        Code.PROMPT_DIFFERS,
    ),
    "another prompt": (
        {"prompt": "x", "chosen": [user("a"), assistant("b")], "rejected": [user("a")]},
        Code.MISSING_ANSWER,
    ),
    "a prompt that does not begin the conversations": (
        {
            "prompt": "x",
            "chosen": [user("a"), assistant("b")],
            "rejected": [user("a"), assistant("c")],
        },
        Code.PROMPT_DIFFERS,
    ),
    "a prompt that ends with an answer": (
        {"prompt": [user("a"), assistant("b")], "chosen": "c", "rejected": "d"},
        Code.BAD_PROMPT,
    ),
    "a message without a role": (
        pair_of("a", "b") | {"preferred_output": [assistant("b"), {"content": "x"}]},
        Code.MISSING_ROLE,
    ),
    "nothing to learn": (
        pair_of("a", "b") | {"preferred_output": [assistant("b") | {"weight": 0}]},
        Code.NOTHING_TO_LEARN,
    ),
    "a chat": ({"messages": [user("a"), assistant("b")]}, Code.MIXED_KINDS),
}


def _error(row: dict[str, Any]) -> str:
    """Return the error of a row after a valid one of its format."""
    good = strings(CORPUS[:1]) if "prompt" in row else implicit(CORPUS[:1])
    good = CORPUS[:1] if "input" in row or "messages" in row else good
    report, _, _ = validated(jsonl([*good, row]))
    assert report.status is DatasetStatus.REJECTED
    (error,) = report.errors
    assert error.line == 2
    return error.code


@pytest.mark.parametrize(("row", "code"), BAD_PAIRS.values(), ids=BAD_PAIRS)
def test_a_bad_pair_is_rejected_with_its_row(row: dict[str, Any], code: str) -> None:
    assert _error(row) == code


def test_a_pair_among_chats_is_rejected() -> None:
    chats = [{"messages": [user(str(n)), assistant("b")]} for n in range(60)]
    report, _, _ = validated(jsonl([*chats, CORPUS[0]]))
    assert [(each.line, each.code) for each in report.errors] == [(61, Code.MIXED_KINDS)]


def test_tokens_count_both_answers_with_their_prompt(tiny_model: Path) -> None:
    files = {
        name: (tiny_model / name).read_bytes() for name in FILES if (tiny_model / name).exists()
    }
    base = BaseTokenizer(files)
    found = count_tokens(jsonl(CORPUS).splitlines(), base)
    chats = [each for pair in CORPUS for each in conversations_of(pair)]
    expected = count_tokens(jsonl(chats).splitlines(), base)
    assert found.buckets == expected.buckets
    assert found.examples == 2 * len(CORPUS)
    assert found.labels is not None
    assert expected.labels is not None
    assert found.labels.positions == expected.labels.positions
    assert found.labels.first.examples == len(CORPUS)
