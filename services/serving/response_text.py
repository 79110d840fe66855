"""Incremental conversion of tokens to text, in whole characters and without stop sequences."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


class ResponseText:
    """The text of one answer. It withholds text that may start a stop sequence."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        assert isinstance(tokenizer, PreTrainedTokenizerFast)
        self.stopped = False
        self._tokenizer = tokenizer
        self._core = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stops = tuple(stop for stop in stops if stop)
        self._tokens: list[int] = []
        self._shown = ""
        self._held = ""

    def add(self, token: int) -> str:
        """Return the text that the token completes. Set `stopped` at a stop sequence."""
        self._tokens.append(token)
        self._held += self._stream.step(self._core, token) or ""
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._show(min(found))
        return self._show(len(self._held) - self._partial_stop())

    def end(self) -> str:
        """Return the withheld text at the end of the answer, because it is not a stop sequence."""
        if self.stopped:
            return ""
        seen = self._shown + self._held
        whole = str(self._tokenizer.decode(self._tokens, skip_special_tokens=True))
        if whole.startswith(seen):
            self._held += whole[len(seen) :]
        return self._show(len(self._held))

    def _partial_stop(self) -> int:
        """Return the length of the part of the withheld text that may start a stop sequence."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0

    def _show(self, characters: int) -> str:
        shown, self._held = self._held[:characters], self._held[characters:]
        self._shown += shown
        return shown
