"""Findings about the last answer of an example: very short, a refusal, or cut off.

The rules are simple, and those for refusals know only English. They point at examples that a
person should look at.
"""

from __future__ import annotations

import re

from domain.datasets.findings import Finding

SHORT_CHARACTERS = 5
"""Answers with fewer characters are very short. Labels of classifiers may be, on purpose."""

CUT_CHARACTERS = 200
"""Shorter answers are not examined for a missing end."""

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
    """Return True if a long answer ends within a code block, or within a sentence.

    It ends within a sentence if its last line has eight words or more, and no mark at its end.
    """
    if len(text) < CUT_CHARACTERS:
        return False
    if text.count(FENCE) % 2:
        return True
    words = text.rsplit("\n", 1)[-1].split()
    return len(words) >= LAST_WORDS and (words[-1][-1].isalnum() or words[-1][-1] == ",")
