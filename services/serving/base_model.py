"""A base model in memory, with its weights, tokenizer and dtype."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from services.model_libraries import UNTRUSTED, choose_dtype, context_of
from services.serving import attention
from services.serving.attention import UnknownAttention
from services.serving.deployed import CannotServe
from services.serving.kv_cache import KVCache
from services.serving.resource_exhaustion import is_resource_exhaustion
from services.serving.step import Part, Step

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

CHECKED_TOKENS = 24
TOLERANCE = {torch.bfloat16: 0.1, torch.float32: 0.001}
"""Maximum relative difference between the same logits computed in two ways."""


@dataclass(frozen=True)
class BaseModel:
    """Weights in memory that use serving's attention, and the tokenizer."""

    weights: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    context: int  # context length in tokens
    end_tokens: frozenset[int]  # tokens that end an answer, from the model's configuration

    @classmethod
    def load(cls, directory: Path, dtype: torch.dtype, device: torch.device) -> BaseModel:
        """Load a base model from its directory. Raise CannotServe if its logits would be wrong."""
        logging.disable_progress_bar()  # keeps progress bars out of the log
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
            weights = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, **UNTRUSTED)
        except (OSError, ValueError) as error:
            if is_resource_exhaustion(error):
                raise
            raise CannotServe("base_unreadable") from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise CannotServe("unsupported_tokenizer", type(tokenizer).__name__)
        weights = weights.eval().requires_grad_(False)
        weights = weights.to(device)  # pyright: ignore[reportArgumentType]  # hidden by a decorator
        _attend_as_served(weights)
        return cls(
            weights,
            tokenizer,
            context_of(weights.config) or tokenizer.model_max_length,
            _configured_ends(weights),
        )

    @property
    def vocabulary(self) -> int:
        """Number of tokens for which the model has logits."""
        head = self.weights.get_output_embeddings()
        assert head is not None
        return int(head.weight.shape[0])

    def logits(self, step: Step) -> Tensor:
        """Return the logits after the parts that need a next token, (answers, vocabulary)."""
        return _logits(self.weights, step)


def dtype_on(device: torch.device, precision: str | None) -> torch.dtype:
    """Return the requested dtype, or the best one for the hardware."""
    return choose_dtype(device) if precision is None else DTYPES[precision]


def _logits(weights: PreTrainedModel, step: Step) -> Tensor:
    with torch.inference_mode():
        return weights(
            input_ids=step.input_ids,
            position_ids=step.places[None],
            use_cache=False,
            logits_to_keep=step.answering,
            step=step,
        ).logits[0]


def _configured_ends(weights: PreTrainedModel) -> frozenset[int]:
    configured = getattr(weights.generation_config, "eos_token_id", None)
    if configured is None:
        return frozenset()
    return frozenset([configured] if isinstance(configured, int) else configured)


def _attend_as_served(weights: PreTrainedModel) -> None:
    """Switch to serving's attention. Compare the logits with those of the model's own attention.

    Raise CannotServe if they differ. The base model then uses an unknown kind of attention.
    """
    kind = type(weights).__name__
    vocabulary = weights.config.get_text_config().vocab_size
    tokens = [(7 * place + 3) % vocabulary for place in range(CHECKED_TOKENS)]
    with torch.inference_mode():
        expected = weights(
            input_ids=torch.tensor([tokens], device=weights.device), use_cache=False
        ).logits[0, -1]
    try:
        weights.set_attn_implementation(attention.NAME)
        found = _checked_logits(weights, tokens)
    except (UnknownAttention, ValueError, TypeError, AttributeError, RuntimeError) as error:
        if is_resource_exhaustion(error):
            raise
        raise CannotServe("unsupported_architecture", f"{kind}: {error}") from error
    distance = float((found - expected).float().norm() / expected.float().norm())
    if not distance <= TOLERANCE[weights.dtype]:
        raise CannotServe(
            "unsupported_architecture",
            f"{kind}: the relative distance of its logits is {distance:.2g}",
        )


def _checked_logits(weights: PreTrainedModel, tokens: list[int]) -> Tensor:
    """Return the logits after the tokens. The last token is processed in a separate step."""
    cache, logits = KVCache(), torch.empty(0)
    cache.resize(1, len(tokens))
    for start, end in ((0, len(tokens) - 1), (len(tokens) - 1, len(tokens))):
        part = Part(0, start, tokens[start:end], answers=True)
        logits = _logits(weights, Step([part], cache, weights.dtype, weights.device))
    return logits[-1]
