"""The chats of the tests: rules on a small corpus, figures on the real one."""

from __future__ import annotations

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.bench.corpus import (
    PACKAGE,
    REQUIREMENT,
    CorpusMissing,
    corpus_directory,
    demo_chats,
    distinct_conversations,
    write_jsonl,
)

needs_corpus = pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"needs {REQUIREMENT}")


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like the corpus that fails if it is imported."""
    package = tmp_path / "small_corpus"
    directory = package / "data" / "english"
    directory.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("tests.bench.corpus.PACKAGE", "small_corpus")
    return directory


def write_topic(directory: Path, topic: str, conversations: object) -> None:
    content = yaml.safe_dump({"categories": [topic], "conversations": conversations})
    (directory / f"{topic}.yml").write_text(content)


def test_unusable_conversations_and_last_user_turns_are_dropped(corpus: Path) -> None:
    write_topic(
        corpus,
        "greetings",
        [
            ["Hi ", "Hello", "How are you?"],
            ["Hi", "Hello"],
            ["alone"],
            ["Hi", ""],
            ["Hi", 22],
            ["Hi", None],
            "a text and no list",
            [],
        ],
    )
    assert demo_chats() == [
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
            ]
        }
    ]


def test_duplicates_are_dropped_before_topics_get_their_shares(corpus: Path) -> None:
    write_topic(corpus, "a", [[f"question {n}", "answer"] for n in range(30)])
    write_topic(corpus, "b", [["same", "answer"]] * 1000 + [["question 1", "answer"]])
    write_topic(corpus, "c", [[f"query {n}", "answer"] for n in range(9)])
    drawn = [chat["messages"][0]["content"].split()[0] for chat in demo_chats(rows=20)]
    assert Counter(drawn) == {"question": 15, "query": 4, "same": 1}


def test_a_small_corpus_is_used_completely(corpus: Path) -> None:
    write_topic(corpus, "a", [[f"question {n}", "answer"] for n in range(3)])
    assert len(demo_chats(rows=200)) == 3
    with pytest.raises(ValueError, match="at least 1"):
        demo_chats(rows=0)


def test_the_file_is_reproducible_and_depends_on_the_seed(corpus: Path, tmp_path: Path) -> None:
    write_topic(corpus, "a", [[f"question {n} é", "answer"] for n in range(50)])
    paths = [tmp_path / name for name in ("one.jsonl", "two.jsonl", "other.jsonl")]
    for path, seed in zip(paths, (42, 42, 43), strict=True):
        assert write_jsonl(path, rows=10, seed=seed) == 10
    one, two, other = (path.read_bytes() for path in paths)
    assert one == two
    assert one != other
    assert "é".encode() in one


def test_a_missing_package_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.corpus.PACKAGE", "no_such_corpus")
    with pytest.raises(CorpusMissing, match="pip install --no-deps chatterbot-corpus"):
        demo_chats()


@needs_corpus
def test_the_real_corpus_has_2026_rows_of_which_899_are_distinct() -> None:
    rows = [
        json.dumps(conversation)
        for path in corpus_directory().glob("*.yml")
        for conversation in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]
    ]
    assert (len(rows), len(set(rows))) == (2026, 899)
    # One of the 899 is a string instead of a list.
    assert sum(map(len, distinct_conversations(corpus_directory()).values())) == 898


@needs_corpus
def test_the_real_subset_covers_topics_without_duplicates() -> None:
    drawn = demo_chats()
    assert len({json.dumps(chat) for chat in drawn}) == len(drawn) == 200
    for chat in drawn:
        roles = [message["role"] for message in chat["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
