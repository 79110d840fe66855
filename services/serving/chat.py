"""From the messages of a chat to the tokens that ask for an answer, as in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from infrastructure.chat_template import CHAT_TEMPLATE, FALLBACK_CHAT_TEMPLATE, plain_message
from services.serving.refusals import TemplateRefused

MARKS = ("\u2402", "\u2403")  # stand for what is said where only what is around it matters


class Chat:
    """One model's way to write chats: its chat template, and what ends an answer in it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, adapter: Path | None = None) -> None:
        """The template is the base's own, else the one that its adapter was trained with."""
        assert isinstance(tokenizer, PreTrainedTokenizerFast)
        self._tokenizer = tokenizer
        self._template = _template(tokenizer, adapter)
        self._prompts = "add_generation_prompt" in self._template
        self._calls_tools = "tool_calls" in self._template
        self.end_tokens, self.stops = self._ends()

    def tokens(self, messages: list[dict[str, Any]]) -> list[int]:
        """Token ids up to where the answer begins; raises TemplateRefused."""
        # The tokenizer itself, because the wrapper around it changes state, and threads share it.
        # The template has written the special tokens.
        text = self.text(messages)
        return self._tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids

    def text(self, messages: list[dict[str, Any]]) -> str:
        """The text up to where the answer begins; raises TemplateRefused."""
        plain = [plain_message(message, self._calls_tools) for message in messages]
        if self._prompts:
            return self._render(plain, prompt=True)
        text = self._render([*plain, {"role": "assistant", "content": MARKS[0]}])
        # A space before the first word is in the word's token, so that the model has to say it.
        return text[: text.rindex(MARKS[0])].rstrip(" ")

    def _ends(self) -> tuple[frozenset[int], tuple[str, ...]]:
        """Tokens and texts that end an answer: the tokenizer's end, and that of the template."""
        own = self._tokenizer.eos_token_id
        tokens = {own} if isinstance(own, int) else set()
        probe = [{"role": "user", "content": MARKS[0]}, {"role": "assistant", "content": MARKS[1]}]
        try:
            after = self._render(probe).rpartition(MARKS[1])[2].strip()
        except TemplateRefused:
            return frozenset(tokens), ()
        ids = self._tokenizer.backend_tokenizer.encode(after, add_special_tokens=False).ids
        if ids and ids[0] in self._tokenizer.all_special_ids:
            return frozenset(tokens | {ids[0]}), ()
        return frozenset(tokens), (after,) if after else ()

    def _render(self, messages: list[dict[str, Any]], *, prompt: bool = False) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                add_generation_prompt=prompt,
                tokenize=False,
            )
        except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
            raise TemplateRefused(str(error)) from error
        assert isinstance(text, str)
        return text


def _template(tokenizer: PreTrainedTokenizerFast, adapter: Path | None) -> str:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template:
        return template
    if adapter is not None and (adapter / CHAT_TEMPLATE).exists():
        return (adapter / CHAT_TEMPLATE).read_text(encoding="utf-8")
    return FALLBACK_CHAT_TEMPLATE
