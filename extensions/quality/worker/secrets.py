"""Patterns of keys and passwords: formats that providers document, and assignments."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

FORMATS: dict[str, str] = {
    "AWS access key": r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b",
    "GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{60,255})\b",
    "GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "Slack token": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,250}\b",
    "Slack webhook": r"https://hooks\.slack\.com/services/[A-Za-z0-9/]{20,}",
    "Stripe key": r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,250}\b",
    "OpenAI key": r"\bsk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{20,250}",
    "Anthropic key": r"\bsk-ant-[A-Za-z0-9_-]{20,250}",
    "Google key": r"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])",
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "npm token": r"\bnpm_[A-Za-z0-9]{36}\b",
    "PyPI token": r"\bpypi-[A-Za-z0-9_-]{50,}",
    "SendGrid key": r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    "JSON Web Token": r"\beyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
    "URL with a password": r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,100}:[^\s/:@]{3,100}@[^\s/@]+",
}
KNOWN = re.compile("|".join(f"(?:{pattern})" for pattern in FORMATS.values()))
"""Each pattern needs a time that is proportional to the length of the text."""

PRIVATE_KEY = re.compile(r"-----(BEGIN|END) (?:[A-Z]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
KEY_CHARACTERS = re.compile(r"[A-Za-z0-9+/=\s:,.()-]{0,10000}")
"""The text of a private key between its first and its last line."""

ASSIGNED = re.compile(
    r"(?i)\b(?:pass(?:word|wd|phrase)|pwd|secret(?:[_ -]?key)?|api[_ -]?(?:key|token|secret)|"
    r"access[_ -]?(?:key|token)|auth[_ -]?token|client[_ -]?secret|bearer)\b"
    r"[\"']?\s{0,20}(?:is|:=|=>|=|:)?\s{0,20}[\"'`]?([A-Za-z0-9_+/=.~!@#$%^&*-]{8,200})"
)
"""A word for a secret, an optional sign of assignment, and a value, which must look random."""

LEAST_ENTROPY = 3.0
"""Bits per character of a random value. Words of eight letters have less."""

MARKERS = (
    *("pass", "pwd", "secret", "api", "token", "bearer", "access", "akia", "asia", "ghp_", "gho_"),
    *("ghu_", "ghs_", "ghr_", "glpat", "xox", "_live_", "_test_", "sk-", "aiza", "hf_", "npm_"),
    *("pypi-", "sg.", "eyj", "private key", "://"),
)
"""One of these is in each text with a secret, in lower case, which saves the other searches."""


def secrets_in(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each key or password in a text. They may overlap."""
    lowered = text.lower()
    if not any(marker in lowered for marker in MARKERS):
        return
    for match in KNOWN.finditer(text):
        yield match.span()
    yield from _private_keys(text)
    for match in ASSIGNED.finditer(text):
        if _is_random(match[1]):
            yield match.span(1)


def _private_keys(text: str) -> Iterator[tuple[int, int]]:
    """Yield the span of each private key (RFC 7468, RFC 9580), or only that of its first line."""
    begin: re.Match[str] | None = None
    for match in PRIVATE_KEY.finditer(text):
        if match[1] == "BEGIN":
            if begin is not None:
                yield begin.span()
            begin = match
        elif begin is not None:
            whole = KEY_CHARACTERS.fullmatch(text, begin.end(), match.start())
            yield begin.start(), match.end() if whole else begin.end()
            begin = None
    if begin is not None:
        yield begin.span()


def _is_random(value: str) -> bool:
    """Return True if a value has digits besides letters, and many different characters."""
    value = value.rstrip(".!,")
    if len(value) < 8 or not any(map(str.isdigit, value)) or not any(map(str.isalpha, value)):
        return False
    counts = Counter(value).values()
    entropy = -sum(n / len(value) * math.log2(n / len(value)) for n in counts)
    return entropy >= min(LEAST_ENTROPY, math.log2(len(value)) - 0.5)
