"""The tokens and texts at which programs that read GGUF files must end an answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from infrastructure.chat.chat_labels import ChatRenderer
from infrastructure.chat.response_end import ResponseEnd, response_end
from infrastructure.chat.template_rendering import TEMPLATE_FILES, ChatRefused, ChatTemplate
from infrastructure.chat.text_encoder import TextEncoder
from services.model_libraries import core_of


@dataclass(frozen=True)
class Ends:
    """The ends of answers: of the tokenizer, the chat template and generation_config.json."""

    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    """Texts of the tokens, and the text with which the template ends an answer."""

    def besides(self, eos: int | None) -> int | None:
        """Return the first end other than the EOS token, or None."""
        return next((id for id in self.tokens if id != eos), None)


def ends_of(directory: Path) -> Ends:
    """Return the ends of answers of a saved tokenizer, as in serving."""
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    generation = directory / "generation_config.json"
    configured = json.loads(generation.read_bytes()) if generation.exists() else {}
    ends = configured.get("eos_token_id")
    encoder = TextEncoder(core_of(tokenizer))
    of_template = _end_of_template(directory, encoder, tokenizer.all_special_ids)
    added = encoder.tokenizer.get_added_tokens_decoder()
    wanted = [
        tokenizer.eos_token_id,
        of_template.token,
        # Some tokenizers do not declare the token that ends a message as special.
        next((id for id, each in added.items() if each.content == of_template.text), None),
        *(ends if isinstance(ends, list) else [ends]),
    ]
    tokens = dict.fromkeys(id for id in wanted if id is not None)
    texts = dict.fromkeys([*map(tokenizer.convert_ids_to_tokens, tokens), of_template.text])
    return Ends(tuple(tokens), tuple(each for each in texts if each))


def _end_of_template(
    directory: Path, encoder: TextEncoder, special_tokens: list[int]
) -> ResponseEnd:
    files = {each: directory / each for each in TEMPLATE_FILES}
    found = {each: path.read_bytes() for each, path in files.items() if path.exists()}
    try:
        template = ChatTemplate.of(found)
    except ChatRefused:
        return ResponseEnd()
    return response_end(ChatRenderer(template, encoder), special_tokens)
