"""The tokenizer of a base model as metadata of a GGUF file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, SpecialVocab, TokenType
from tokenizers import Tokenizer

from extensions.exports.gguf_support import SENTENCEPIECE, split_of
from extensions.exports.worker.answer_ends import ends_of
from infrastructure.chat.template_rendering import (
    CONFIG,
    DEFAULT,
    TEMPLATE_FILE,
    TOOL_TEMPLATE_FILE,
    TOOL_USE,
)

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
SPACE = "▁"
"""The character that stands for a space in tokens of SentencePiece."""

PADDING = "[PAD%d]"
"""Text of the rows of the embedding that no token uses, as llama.cpp's converter writes it."""


def add_tokenizer(writer: GGUFWriter, directory: Path, vocab_size: int) -> None:
    """Add tokens, their types and merges or scores, special tokens and the chat template."""
    description = json.loads((directory / "tokenizer.json").read_bytes())
    tokens, types = _tokens(description, directory, vocab_size)
    split = split_of(description)
    if split == SENTENCEPIECE:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        # SentencePiece numbers tokens in the order in which it merges them, best first.
        writer.add_token_scores([-float(id) for id in range(len(tokens))])
        writer.add_add_space_prefix(_adds_space(description))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(split)
        writer.add_token_list(tokens)
    writer.add_token_types(types)
    special = SpecialVocab(directory, load_merges=split != SENTENCEPIECE, n_vocab=vocab_size)
    special.add_special_token["bos"] = _adds_bos(directory, special.special_token_ids.get("bos"))
    special.chat_template = chat_template_of(directory)
    special.add_to_gguf(writer, quiet=True)
    end = ends_of(directory).besides(special.special_token_ids.get("eos"))
    if end is not None:
        writer.add_eot_token_id(end)


def chat_template_of(directory: Path) -> str | list[dict[str, str]] | None:
    """Return the chat template of a saved tokenizer, a list of several named ones, or None."""
    if not (path := directory / TEMPLATE_FILE).exists():
        return _json(directory / CONFIG).get("chat_template")
    template = path.read_text()
    if not (tools := directory / TOOL_TEMPLATE_FILE).exists():
        return template
    return [
        {"name": DEFAULT, "template": template},
        {"name": TOOL_USE, "template": tools.read_text()},
    ]


def _tokens(
    description: dict[str, Any], directory: Path, vocab_size: int
) -> tuple[list[str], list[TokenType]]:
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    by_id = {id: text for text, id in tokenizer.get_vocab(with_added_tokens=True).items()}
    added = {each["id"]: each for each in description.get("added_tokens") or ()}
    unknown = description["model"].get("unk_token")
    tokens, types = [], []
    for id in range(vocab_size):
        text = by_id.get(id)
        if text is None:
            tokens.append(PADDING % id)
            types.append(TokenType.UNUSED)
            continue
        tokens.append(text)
        if text == unknown:
            types.append(TokenType.UNKNOWN)
        elif id in added:
            special = added[id]["special"]
            types.append(TokenType.CONTROL if special else TokenType.USER_DEFINED)
        elif description["model"].get("byte_fallback") and BYTE.fullmatch(text):
            types.append(TokenType.BYTE)
        else:
            types.append(TokenType.NORMAL)
    return tokens, types


def _adds_bos(directory: Path, bos: int | None) -> bool:
    """Return True if the tokenizer puts a token for the beginning before each text."""
    ids = Tokenizer.from_file(str(directory / "tokenizer.json")).encode("a").ids
    return bos is not None and ids[:1] == [bos]


def _adds_space(description: dict[str, Any]) -> bool:
    """Return True if the tokenizer puts a space before each text."""
    for step in (*_steps(description.get("normalizer")), *_steps(description.get("pre_tokenizer"))):
        if step["type"] == "Prepend" and step["prepend"] == SPACE:
            return True
        if step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never":
            return True
    return False


def _steps(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer, which may be a sequence."""
    if step is None:
        return []
    parts = step.get("normalizers") or step.get("pretokenizers")
    return [step] if parts is None else [each for part in parts for each in _steps(part)]


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes()) if path.exists() else {}
