"""Truncation: what is refused, with which figures and advice, and what is warned of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from domain.core.errors import Invalid
from domain.training.token_lengths import LabelTokens, TokenLengths
from domain.training.truncation import Truncation, require_trainable


def counted(examples: Sequence[tuple[int, int]]) -> TokenLengths:
    """Examples by their tokens and by how many of these, at the end, are trainable."""
    positions = Counter(p for size, labels in examples for p in range(size - labels + 1, size + 1))
    first = Counter(size - labels + 1 for size, labels in examples)
    lengths = TokenLengths.of(size for size, _ in examples)
    return lengths.model_copy(update={"labels": LabelTokens.of_counts(positions, first)})


def test_a_length_that_leaves_nothing_to_learn_is_refused_with_one_that_does() -> None:
    with pytest.raises(Invalid) as refused:
        require_trainable(counted([(64, 20)] * 40), 32, 2048, 2)
    error = refused.value
    assert error.field == "hyperparameters.max_sequence_length"
    assert error.figures == {"trainable_tokens": 0, "max_sequence_length": 64}
    require_trainable(counted([(64, 20)] * 40), 64, 2048, 2)


def test_one_example_is_too_few_to_train_on_and_to_hold_out() -> None:
    lengths = counted([(64, 20)] * 40 + [(30, 5)])
    with pytest.raises(Invalid) as refused:
        require_trainable(lengths, 32, 2048, 2)
    assert refused.value.figures == {"trainable_tokens": 5, "max_sequence_length": 64}
    require_trainable(lengths, 32, 2048, 1)


def test_a_context_that_is_too_short_asks_for_another_base() -> None:
    with pytest.raises(Invalid) as it:
        require_trainable(counted([(900, 100)] * 10), 512, 512, 2)
    assert it.value.field == "dataset"
    assert it.value.figures == {"trainable_tokens": 0}


def test_a_validation_dataset_is_named() -> None:
    with pytest.raises(Invalid, match="validation dataset"):
        require_trainable(counted([(64, 20)] * 10), 32, 2048, 1, "validation dataset")


def test_a_dataset_without_trainable_tokens_is_refused_for_what_it_is() -> None:
    with pytest.raises(Invalid) as refused:
        require_trainable(counted([]), 32, 2048, 2)
    assert refused.value.field == "dataset"


def test_what_was_not_counted_is_not_refused() -> None:
    require_trainable(TokenLengths.of([64] * 40), 32, 2048, 2)


def test_more_than_5_percent_truncated_is_warned_of() -> None:
    lengths = counted([(10, 4)] * 95 + [(100, 20)] * 5)
    assert Truncation.of(lengths, 50).warning is None
    lengths = counted([(10, 4)] * 94 + [(100, 20)] * 6)
    assert Truncation.of(lengths, 100).warning is None
    assert Truncation.of(lengths, 50).warning == (
        "6 of 100 examples (6%) are longer than 50 tokens and lose their end. 376 of 496 trainable "
        "tokens (76%) remain. Training drops 6 examples that keep none."
    )
    assert Truncation.of(TokenLengths.of([64] * 40), 32).warning == (
        "40 of 40 examples (100%) are longer than 32 tokens and lose their end."
    )
