"""Grammars that let an answer be only JSON that a schema permits, by llguidance."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import llguidance.hf
import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from infrastructure.process.limited_process import LimitExceeded, Limits, ProcessFailed, run
from services.serving.grammar_worker import LIMITS
from services.serving.refusals import Refused

WORKER, COMPILING = "services.serving.grammar_worker", Limits(5, 60.0, 512)
"""The process that compiles a grammar first, and its limits."""

KNOWN_GRAMMARS = 512
COMPILERS = threading.BoundedSemaphore(2)
COMPILER_WAIT_SECONDS = 1.0
"""Seconds for which a request with a new schema waits for one of the compilers."""

COMPACT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON without free white space. A weak model could otherwise write it without end."""


class UnusableSchema(Refused):
    """A schema that no grammar can enforce."""

    status = HTTPStatus.BAD_REQUEST
    code = "invalid_schema"

    def __init__(self, reason: str) -> None:
        super().__init__(f"The schema cannot be enforced: {reason}. Change it.", "response_format")


class CompilersBusy(Refused):
    """Too many new schemas are being compiled. Known schemas need no compiler."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "rate_limit_exceeded"

    def __init__(self) -> None:
        super().__init__("Too many new schemas are being compiled. Try again soon.")


class GrammarBroken(Exception):
    """A grammar permits no token, because the answer exceeded its limits."""


class Grammars:
    """The grammars of one model. Its tokenizer is prepared at the first use, in about a second."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, vocabulary: int, ends: Iterable[int]
    ) -> None:
        self._tokenizer, self._vocabulary, self._ends = tokenizer, vocabulary, sorted(ends)
        self._prepared: LLTokenizer | None = None

    def of(self, schema: dict[str, Any]) -> Grammar:
        """Return the grammar of an answer. Raise UnusableSchema or CompilersBusy."""
        if self._prepared is None:
            self._prepared = llguidance.hf.from_tokenizer(
                self._tokenizer, n_vocab=self._vocabulary, eos_token=self._ends or None
            )
        try:
            text = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=COMPACT)
        except ValueError as error:
            raise UnusableSchema(_first_line(str(error))) from error
        if problem := _problem(text):
            raise UnusableSchema(problem)
        matcher = LLMatcher(self._prepared, text, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise UnusableSchema(_first_line(matcher.get_error()))
        return Grammar(matcher)


_problems: dict[str, str] = {}


def _problem(grammar: str) -> str:
    """Return the reason why a grammar cannot be compiled within limits, or an empty text."""
    if (known := _problems.get(grammar)) is not None:
        return known
    if not COMPILERS.acquire(timeout=COMPILER_WAIT_SECONDS):
        raise CompilersBusy
    try:
        if grammar not in _problems:  # else another request has compiled it in the meantime
            problem = _compiled(grammar)
            if len(_problems) >= KNOWN_GRAMMARS:
                _problems.clear()
            _problems[grammar] = problem
            return problem
        return _problems[grammar]
    finally:
        COMPILERS.release()


def _compiled(grammar: str) -> str:
    try:
        return _first_line(str(run(WORKER, {"grammar": grammar}, COMPILING)))
    except LimitExceeded as error:
        return f"it exceeds the {error.exceeded} limit"
    except ProcessFailed as error:
        raise CompilersBusy from error


class Grammar:
    """The state of one answer in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def restrict(self, logits: Tensor) -> Tensor:
        """Set logits of impossible tokens to minus infinity, or raise GrammarBroken."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: len(logits)].astype(bool)
        if self._matcher.is_error() or not allowed.any():
            raise GrammarBroken(_first_line(self._matcher.get_error()) or "no token is permitted")
        forbidden = torch.from_numpy(~allowed).to(logits.device)
        if len(forbidden) < len(logits):  # tokens that only pad the matrix of the weights
            forbidden = torch.nn.functional.pad(
                forbidden, (0, len(logits) - len(forbidden)), value=True
            )
        return logits.masked_fill(forbidden, -math.inf)

    def advance(self, token: int) -> bool:
        """Append a token. Return True if the answer is complete. Raise GrammarBroken."""
        if not self._matcher.consume_token(token):
            raise GrammarBroken(_first_line(self._matcher.get_error()))
        return self._matcher.is_stopped()


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].rstrip(".")[:200]
