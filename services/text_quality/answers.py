"""Simple rules for last answers: very short, cut off, or an English refusal."""

from __future__ import annotations

import re

from domain.datasets.findings import Finding

SHORT_CHARACTERS = 5
"""Answers with fewer characters are very short. Labels of classifiers may be, on purpose."""

CUT_CHARACTERS = 200
"""Shorter answers without a full stop may be titles or labels, which need none."""

START = 300
REFUSAL = re.compile(
    r"""^\W*
    (?:(?:i'm|i\ am)\ (?:very\ |so\ |really\ |truly\ )?(?:sorry|afraid)\b.{0,60}?|
       (?:sorry|apologies|unfortunately),?\ (?:but\ )?)?
    (?:i\ (?:can(?:not|'t|\ not)|(?:am|'m)\ (?:not\ able|unable)|(?:won't|will\ not)\ be\ able|
             do(?:n't|\ not)\ feel\ comfortable)\b.{0,30}?\b
       (?:help|assist|provide|answer|fulfil|comply|create|write|generate|discuss|support|share|do)\b|
     as\ an?\ (?:ai|artificial\ intelligence|large\ language|language)\ (?:language\ )?
       (?:model|assistant)\b.{0,40}?\b(?:i|my)\b)""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
CURLY = "\u2019"
LAST_WORDS = 8
FENCE = "```"
FENCE_LINE = re.compile(r"[\w+#.-]*(?:\n|$)")
ITEM = re.compile(r"(?:[-*+•#>|]|\(?(?:\d{1,3}|[a-zA-Z])[.)])\s")
SENTENCE = re.compile(
    r"\b(?!(?:approx|prof|mrs|inc|ltd|fig|vol)\.)\w{3,}\.\s+(?=\w)", re.IGNORECASE
)
OPEN = re.compile(
    r"(?:\S+ ){2,}(?:the|and|because|although|whose|my|your|our|their|every|"
    r"und|oder|weil|dass|eine|einen|einem|et|des|les|une|dans|los|las|una|del)|"
    r"(?:\S+ ){7,}(?:a|an|or|but|of|to|for|with|by|from|in|on|at|is|are|as|that)|"
    r"(?:\S+ ){4,}[^\W\d_]+,"
)
"""Last words of a sentence that goes on. Few titles of eight words end with a preposition."""


def findings_of(answer: str | None) -> list[Finding]:
    """Return the kinds of findings about an answer. None is an answer that only calls tools."""
    if answer is None:
        return []
    text = answer.strip()
    found: list[Finding] = []
    if len(text) < SHORT_CHARACTERS:
        found.append(Finding.SHORT_ANSWER)
    if REFUSAL.match(text[:START].replace(CURLY, "'")):
        found.append(Finding.REFUSAL)
    if is_cut(text):
        found.append(Finding.TRUNCATED_ANSWER)
    return found


def is_cut(text: str) -> bool:
    """Return True if an answer ends within a code block, or within a sentence.

    A last line without a mark at its end may be a list item, a title, or Thai to Khmer. It is
    within a sentence if it has eight words in a long answer, or four after a full stop.
    """
    if text.count(FENCE) % 2 and FENCE_LINE.match(text.rsplit(FENCE, 1)[-1]):
        return True
    line = text.rsplit("\n", 1)[-1].strip()
    words = line.split()
    if OPEN.fullmatch(" ".join(words[-LAST_WORDS:])):
        return True
    if (
        not words
        or ITEM.match(line)
        or not words[-1][-1].isalnum()
        or "\u0e00" <= line[-1] < "\u1800"
    ):
        return False
    if len(text) >= CUT_CHARACTERS and len(words) >= LAST_WORDS:
        return True
    *earlier, rest = SENTENCE.split(line)
    return len(rest.split()) >= 4 and bool(earlier) and words[-1].isalpha() and words[-1].islower()
