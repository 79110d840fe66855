"""Truncation of a dataset to a max sequence length."""

from __future__ import annotations

from domain.core.errors import Invalid
from domain.core.value import Value
from domain.training.token_lengths import LabelTokens, TokenLengths

WARN_SHARE = 0.05
"""Share of truncated examples above which EcoLink warns the owner."""


class Truncation(Value):
    """The effect of truncating each example of a dataset to its first `limit` tokens.

    The numbers come from histograms. They are exact, except for the bucket that contains the limit.
    Both answers of a preference pair are truncated, each with the prompt. `truncated` is then an
    upper bound, because the histogram does not show which two answers belong together.
    """

    limit: int
    examples: int
    truncated: int
    trainable_tokens: int | None  # before truncation; None: not counted
    kept_tokens: int | None  # trainable tokens after truncation
    teaching: int | None  # number of examples that keep a trainable token; the job drops the others

    @classmethod
    def of(cls, lengths: TokenLengths, limit: int, sequences: int = 1) -> Truncation:
        """Return the effect of truncation to `limit` tokens. Each example has `sequences`."""
        labels = lengths.labels
        examples = lengths.examples // sequences
        return cls(
            limit=limit,
            examples=examples,
            truncated=min(examples, lengths.longer_than(limit)),
            trainable_tokens=labels and labels.tokens,
            kept_tokens=labels and labels.kept(limit),
            teaching=labels and labels.teaching(limit),
        )

    @property
    def warning(self) -> str | None:
        """A warning for the owner if more than 5% of the examples are truncated."""
        if self.truncated <= WARN_SHARE * self.examples:
            return None
        one = self.truncated == 1
        cut = (
            f"{self.truncated:,} of {self.examples:,} examples ({self._percent(self.truncated)}) "
            f"{'is' if one else 'are'} longer than {self.limit:,} tokens and "
            f"{'loses its' if one else 'lose their'} end."
        )
        if not self.trainable_tokens or self.kept_tokens is None or self.teaching is None:
            return cut
        share = 100 * self.kept_tokens / self.trainable_tokens
        cut += f" {self.kept_tokens:,} of {self.trainable_tokens:,} trainable tokens ({share:.0f}%)"
        dropped = self.examples - self.teaching
        if not dropped:
            return f"{cut} remain."
        examples = "example that keeps none" if dropped == 1 else "examples that keep none"
        return f"{cut} remain. Training drops {dropped:,} {examples}."

    def _percent(self, examples: int) -> str:
        return f"{100 * examples / self.examples:.0f}%"


def require_trainable(
    lengths: TokenLengths,
    limit: int,
    context_length: int,
    least_examples: int,
    name: str = "dataset",
) -> None:
    """Raise Invalid if fewer than `least_examples` keep a trainable token within `limit`.

    Accept a dataset whose trainable tokens were not counted. The error's figures contain the
    remaining trainable tokens and, if a longer limit would help, the length of the longest example.
    """
    if (labels := lengths.labels) is None or labels.least_teaching(limit) >= least_examples:
        return
    if labels.least_teaching(lengths.longest) < least_examples:
        count = "1 example" if labels.least_teaching(lengths.longest) == 1 else "no examples"
        raise Invalid(
            f"The {name} has {count} with trainable tokens, but needs at least {least_examples}. "
            "Add examples with assistant messages.",
            field=name.replace(" ", "_"),
            figures={"trainable_tokens": labels.tokens},
        )
    raise _nothing_left(labels, lengths, limit, context_length, least_examples, name)


def _nothing_left(
    labels: LabelTokens,
    lengths: TokenLengths,
    limit: int,
    context_length: int,
    least_examples: int,
    name: str,
) -> Invalid:
    left = (
        f"If EcoLink truncates the examples of the {name} to {limit:,} tokens, "
        f"they keep {labels.kept(limit):,} of {labels.tokens:,} trainable tokens"
    )
    if found := labels.least_teaching(limit):
        left += f", in {found} example. At least {least_examples} examples must keep some"
    figures: dict[str, object] = {"trainable_tokens": labels.kept(limit)}
    longer = min(lengths.longest, context_length)
    if labels.least_teaching(longer) < least_examples:
        return Invalid(
            f"{left}. The context of the base model has {context_length:,} tokens. Choose a "
            "base model with a longer context, or shorten the examples.",
            field=name.replace(" ", "_"),
            figures=figures,
        )
    return Invalid(
        f"{left}. Choose a max sequence length of {longer:,}, the length of the longest "
        "example that fits into the base model's context.",
        field="hyperparameters.max_sequence_length",
        figures=figures | {"max_sequence_length": longer},
    )
