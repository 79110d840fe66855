"""Sample answers of the adapter to a fixed prompt, generated at checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from pydantic import BaseModel, ConfigDict

from infrastructure.chat.chat_labels import Example
from services.trainer.examples import Renderer
from services.trainer.lease import Lease

NEW_TOKENS = 24
SHARE = 0.005
"""Share of training time for samples. On a CPU, one may take a second."""

FIRST_SECONDS = 20.0
"""Seconds of training before the first sample, which takes an unknown time."""


class Sample(BaseModel):
    """A prompt and its greedy answer, stored next to the weights of a checkpoint."""

    model_config = ConfigDict(frozen=True)

    prompt: list[dict[str, Any]]  # messages
    answer: str


class Sampling:
    """A generator of answers to the last question of one conversation.

    It draws no random numbers and changes no parameters, so it does not affect training. Its time
    is limited, so that frequent checkpoints do not slow down training.
    """

    def __init__(
        self,
        renderer: Renderer,
        conversation: dict[str, Any],
        held_out: list[Example],
        device: torch.device,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokenizer, self._device, self._now = renderer.tokenizer, device, now
        self._messages, text = renderer.prompt(conversation)
        self._prompt: list[int] = renderer.encode(text).ids
        # No longer than training examples, for which memory and time are planned.
        self._fits = 0 < len(self._prompt) <= renderer.max_tokens - NEW_TOKENS
        self._ends = self._end_tokens(held_out)
        self._pause_seconds, self._sampled_at = FIRST_SECONDS, now()

    @property
    def due(self) -> bool:
        """True if enough time has passed for another sample."""
        return self._now() - self._sampled_at >= self._pause_seconds

    def sample(self, model: PeftModel, lease: Lease) -> Sample | None:
        """Generate an answer, and leave the model in evaluation mode.

        Return None if the segment has to end, or if the prompt leaves no space for an answer within
        the max sequence length.
        """
        if not self._fits:
            return None
        began = self._now()
        try:
            answer = self._answer(model, lease)
        finally:
            self._sampled_at = self._now()
            self._pause_seconds = max(FIRST_SECONDS, (self._sampled_at - began) / SHARE)
        if answer is None:
            return None
        text = self._tokenizer.decode(answer, skip_special_tokens=True)
        return Sample(prompt=self._messages, answer=str(text).strip())

    def _answer(self, model: PeftModel, lease: Lease) -> list[int] | None:
        model.eval()
        answer: list[int] = []
        cache, unread = None, self._prompt
        with torch.no_grad():
            while len(answer) < NEW_TOKENS:
                if lease.outcome is not None:
                    return None
                output = model(
                    input_ids=torch.tensor([unread], device=self._device),
                    cache=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                token = int(output.logits[0, -1].argmax())
                if token in self._ends:
                    break
                answer.append(token)
                cache, unread = output.cache, [token]
        return answer

    def _end_tokens(self, held_out: list[Example]) -> set[int]:
        """Return the tokens that end an answer: those of the tokenizer and of the template."""
        taught = {example.labels[-1] for example in held_out}
        taught |= {
            label
            for example in held_out
            for label, following in zip(example.labels, example.labels[1:], strict=False)
            if following < 0
        }
        ends = taught & set(self._tokenizer.all_special_ids)
        if isinstance(self._tokenizer.eos_token_id, int):
            ends.add(self._tokenizer.eos_token_id)
        return ends
