"""A tiny Llama-architecture chat model with a tokenizer, always the same.

Tests and benchmarks train it; `python -m tests.builders.tiny_model DIRECTORY` saves it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from domain.catalog.model_shape import ModelShape, separate_linears
from services.model_libraries import lean_imports

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CORPUS = (
    "user assistant system tool the quick brown fox jumps over a lazy dog",
    "What is the capital of France? The capital of France is Paris.",
    "Hello! How are you today? I am fine, thank you. Good morning, good evening.",
)

TINY_SHAPE = ModelShape(
    parameters=30_496,
    layers=2,
    hidden_size=32,
    intermediate_size=64,
    attention_heads=4,
    kv_heads=2,
    head_dim=8,
    vocab_size=372,
    context_length=256,
    tied_embeddings=True,
    linears=separate_linears(32, 64, attention_heads=4, kv_heads=2, head_dim=8),
)
"""The shape of the tiny model."""


def make_tiny_model(
    directory: Path, *, chat_template: str | None = CHAT_TEMPLATE, seed: int = 0
) -> Path:
    """Save a model of 2 layers and about 50,000 parameters as an ordinary model directory.

    float32, 256 tokens of context. Returns the directory.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tiny_tokenizer(chat_template)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def make_tiny_tokenizer(chat_template: str | None = CHAT_TEMPLATE):
    """A byte-level BPE tokenizer of a few hundred tokens, with ChatML's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=chat_template,
    )


def preference_pairs(count: int) -> list[dict[str, Any]]:
    """Return preference pairs in OpenAI's format, in which the longer answer is preferred."""
    words = ("yes", "no", "maybe", "soon", "later", "never", "today", "tomorrow")
    return [
        {
            "input": {"messages": [{"role": "user", "content": f"Question {n}: {words[n % 8]}?"}]},
            "preferred_output": [
                {"role": "assistant", "content": " ".join(words[: 2 + n % 6]) + f" {n}"}
            ],
            "non_preferred_output": [{"role": "assistant", "content": words[-1 - n % 8]}],
        }
        for n in range(count)
    ]


def chats(count: int) -> list[dict]:
    """Return short conversations of different lengths."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} and {n}?" + " Tell me." * (n % 4)},
                {"role": "assistant", "content": f"It is {2 * n}." + " Good." * (n % 3)},
            ]
        }
        for n in range(count)
    ]


if __name__ == "__main__":
    lean_imports()
    make_tiny_model(Path(sys.argv[1]))
