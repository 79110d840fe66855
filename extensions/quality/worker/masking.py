"""Masks of personal data, in examples and in excerpts for reports."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from domain.datasets.findings import Finding
from extensions.quality.worker.personal_data import Span

AROUND = 40
"""Characters shown on each side of a finding."""

SHOWN = 1
"""Characters of personal data that an excerpt shows."""


def masked(text: str, spans: Sequence[Span], kinds: Collection[Finding]) -> str:
    """Return a text in which each span of these kinds is a placeholder, such as [EMAIL_ADDRESS]."""
    parts: list[str] = []
    at = 0
    for span in spans:
        if span.kind in kinds:
            parts += text[at : span.start], placeholder(span)
            at = span.end
    return "".join((*parts, text[at:]))


def excerpt(
    text: str, span: Span, spans: Sequence[Span], shown: Callable[[Span], str] | None = None
) -> str:
    """Return the text around a span. By default, each shows one character, and secrets none."""
    show = shown or (lambda each: _hidden(text, each))
    first, last = max(0, span.start - AROUND), min(len(text), span.end + AROUND)
    first = min((each.start for each in spans if each.start < first < each.end), default=first)
    last = max((each.end for each in spans if each.start < last < each.end), default=last)
    parts: list[str] = []
    at = first
    for each in spans:
        if each.start >= first and each.end <= last:
            parts += text[at : each.start], show(each)
            at = each.end
    parts.append(text[at:last])
    line = " ".join("".join(parts).split())
    return f"{'…' if first else ''}{line}{'…' if last < len(text) else ''}"


def change_of(text: str, span: Span, spans: Sequence[Span]) -> tuple[str, str]:
    """Return the text around a span before and after masking, without secrets and other spans."""
    found = _hidden(text, span) if span.kind is Finding.SECRET else text[span.start : span.end]

    def with_span(shown: str) -> str:
        return excerpt(text, span, spans, lambda s: shown if s == span else _hidden(text, s))

    return with_span(found), with_span(placeholder(span))


def placeholder(span: Span) -> str:
    """Return the text that replaces a span."""
    return f"[{span.kind.upper()}]"


def start_of(texts: Iterable[tuple[str, Sequence[Span]]], limit: int = 120) -> str:
    """Return the start of texts on one line, with all personal data (their spans) hidden."""
    shown = ""
    for text, spans in texts:
        hidden = masked(text[: 4 * limit], _within(spans, 4 * limit), tuple(Finding))
        shown = " ".join(f"{shown} {hidden}".split())
        if len(shown) > limit:
            return shown[:limit] + "…"
    return shown


def _within(spans: Sequence[Span], end: int) -> list[Span]:
    """Return the spans before `end`. The last may go beyond it, and hides the rest."""
    return [span for span in spans if span.start < end]


def _hidden(text: str, span: Span) -> str:
    if span.kind is Finding.SECRET:
        return "•" * 8
    first = text[span.start : span.start + SHOWN]
    return first + "•" * min(12, max(3, span.end - span.start - SHOWN))
