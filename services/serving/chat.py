"""Rendering of the messages of a chat as the prompt for the next answer, as in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from infrastructure.chat.chat_labels import ChatRenderer, Unrenderable
from infrastructure.chat.chat_template import CHAT_TEMPLATE, FALLBACK_CHAT_TEMPLATE
from infrastructure.chat.limited_rendering import LimitedTemplate
from infrastructure.chat.response_end import MARKS, response_end
from infrastructure.chat.template_rendering import one_template
from infrastructure.chat.text_encoder import TextEncoder
from services.model_libraries import core_of
from services.serving.refusals import TemplateRefused
from services.serving.tool_calls import CallFormat, CallReader


class Chat:
    """The chat format of a model: its template, and the tokens and strings that end an answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, adapter: Path | None = None) -> None:
        assert isinstance(tokenizer, PreTrainedTokenizerFast)
        self._tokenizer = tokenizer
        source, tokens = _template(tokenizer, adapter), tokenizer.special_tokens_map
        encoder = TextEncoder(core_of(tokenizer))
        self._renderer = ChatRenderer(LimitedTemplate(source, tokens), encoder)
        self._prompts = "add_generation_prompt" in source
        self.end_tokens, self.stops = self._ends()
        self._calls = CallFormat.of(
            self._renderer, lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True))
        )

    def tokens(self, messages: list[dict[str, Any]], tools: Any = None) -> list[int]:
        """Return the prompt's token IDs, or raise TemplateRefused."""
        return self._renderer.encode(self.text(messages, tools)).ids

    def text(self, messages: list[dict[str, Any]], tools: Any = None) -> str:
        """Return the text of the prompt. Raise TemplateRefused if the template rejects the chat."""
        plain, tools = self._renderer.plain({"messages": messages, "tools": tools})
        if self._prompts:
            return self._render(plain, tools, prompt=True)
        text = self._render([*plain, {"role": "assistant", "content": MARKS[0]}], tools)
        # A space before the first word belongs to the word's token, which the model generates.
        return text[: text.rindex(MARKS[0])].rstrip(" ")

    def reader(self, tools: list[dict[str, Any]] | None) -> CallReader | None:
        """Return a reader of the calls in one answer, if the template writes calls as JSON."""
        if not tools or self._calls is None:
            return None
        return CallReader(self._calls, frozenset(tool["function"]["name"] for tool in tools))

    def _ends(self) -> tuple[frozenset[int], tuple[str, ...]]:
        """Return the tokens and strings that end an answer, from the tokenizer and the template."""
        own = self._tokenizer.eos_token_id
        end = response_end(self._renderer, self._tokenizer.all_special_ids)
        tokens = frozenset(id for id in (own, end.token) if isinstance(id, int))
        return tokens, (end.text,) if end.text else ()

    def _render(
        self, messages: list[dict[str, Any]], tools: Any = None, *, prompt: bool = False
    ) -> str:
        try:
            return self._renderer.text(messages, tools, prompt=prompt)
        except Unrenderable as error:
            raise TemplateRefused(str(error)) from error


def _template(tokenizer: PreTrainedTokenizerFast, adapter: Path | None) -> str:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = one_template(template)
    if template:
        return template
    if adapter is not None and (adapter / CHAT_TEMPLATE).exists():
        return (adapter / CHAT_TEMPLATE).read_text(encoding="utf-8")
    return FALLBACK_CHAT_TEMPLATE
