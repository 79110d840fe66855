"""The engine without a platform around it, beside the libraries' own `generate`, for a bench.

`python -m services.serving.measured_serving CONFIG.json`, where CONFIG.json is a ServingConfig,
prints a ServingResult as JSON in its last line. Whoever starts it imports both without torch.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict

from domain.core.identity import PLATFORM_ACCOUNT_ID
from infrastructure.generation import GenerationAsked
from services.model_libraries import UNTRUSTED, lean_imports
from services.serving.deployed import Served
from services.serving.engine import Engine, Hosting

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from services.serving.row import Grown

MODULE = "services.serving.measured_serving"

LONGEST_SECONDS = 600.0

Precision = Literal["bf16", "fp32"]


class Settled(BaseModel):
    """Base of what goes in and comes out."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Chat(Settled):
    """A request: an adapter by its number, or None for the base, and messages."""

    adapter: int | None
    messages: list[dict[str, Any]]


class ServingConfig(Settled):
    """What is asked, all at once, as often as there are repeats."""

    model: Path
    adapters: int  # made for the bench, of rank 16 on all linear modules
    chats: tuple[Chat, ...]
    tokens: int  # of each answer
    repeats: int
    precision: Precision | None = None  # None: what the machine is good at


class Turn(Settled):
    """One way to answer all requests, once; seconds count from when all were asked."""

    seconds: float  # until the last answer was complete
    first_seconds: tuple[float, ...]  # until the first token of each
    answers: tuple[tuple[int, ...], ...]  # tokens


class ServingResult(Settled):
    """Turns of both, one after the other."""

    dtype: str
    threads: int
    prompt_tokens: tuple[int, ...]
    sequential: tuple[Turn, ...]  # transformers' and peft's own `generate`, request by request
    batched: tuple[Turn, ...]  # the engine


def main() -> None:
    """Measure what the configuration says."""
    config = ServingConfig.model_validate_json(Path(sys.argv[1]).read_bytes())
    lean_imports()
    with tempfile.TemporaryDirectory(prefix="ecolink-serve-") as folder:
        print(_measured(config, Path(folder)).model_dump_json())


def _measured(config: ServingConfig, folder: Path) -> ServingResult:
    import torch

    from services.serving.base_model import DTYPES, dtype_on

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype_on(device, config.precision)
    (name,) = (name for name, each in DTYPES.items() if each is dtype)
    adapters = [_adapter(config.model, folder, number) for number in range(config.adapters)]
    sequential = _Sequential(config, adapters, dtype, device)
    batched = _Batched(config, adapters, name, device.type)
    try:
        sequential.turn(1)
        batched.turn(1)
        turns: tuple[list[Turn], list[Turn]] = ([], [])
        for repeat in range(config.repeats):
            order = (sequential, batched) if repeat % 2 == 0 else (batched, sequential)
            for each in order:
                turns[each is batched].append(each.turn(len(config.chats)))
    finally:
        batched.engine.close()
    return ServingResult(
        dtype=name,
        threads=torch.get_num_threads(),
        prompt_tokens=tuple(sequential.prompt_tokens),
        sequential=tuple(turns[0]),
        batched=tuple(turns[1]),
    )


class _Sequential:
    """The libraries as anyone would use them: a base, and a peft model for each adapter."""

    def __init__(self, config: ServingConfig, adapters: list[Path], dtype: Any, device: Any):
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._config = config
        self._tokenizer = AutoTokenizer.from_pretrained(config.model, trust_remote_code=False)

        def base() -> PreTrainedModel:
            return AutoModelForCausalLM.from_pretrained(config.model, dtype=dtype, **UNTRUSTED).to(
                device
            )

        self._models: list[Any] = [base().eval()]
        self._models += [PeftModel.from_pretrained(base(), str(path)).eval() for path in adapters]
        for model in self._models:  # an end is a token like any other, and all answers are as long
            model.generation_config.eos_token_id = None
            model.generation_config.pad_token_id = 0
        self._prompts = [
            self._tokenizer.apply_chat_template(
                chat.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            ).to(device)
            for chat in config.chats
        ]

    @property
    def prompt_tokens(self) -> list[int]:
        """Of each request."""
        return [prompt["input_ids"].shape[1] for prompt in self._prompts]

    def turn(self, count: int) -> Turn:
        """Answer the first requests, one after the other."""
        began = time.perf_counter()
        first, answers = [], []
        for chat, prompt in zip(self._config.chats[:count], self._prompts, strict=False):
            heard = _FirstToken(began)
            model = self._models[0 if chat.adapter is None else chat.adapter + 1]
            output = model.generate(
                **prompt,
                do_sample=False,
                max_new_tokens=self._config.tokens,
                streamer=heard,
            )
            first.append(heard.seconds)
            answers.append(tuple(output[0, prompt["input_ids"].shape[1] :].tolist()))
        seconds = time.perf_counter() - began
        return Turn(seconds=seconds, first_seconds=tuple(first), answers=tuple(answers))


class _FirstToken:
    """transformers' port for streaming: it is given the prompt, then token by token."""

    def __init__(self, began: float) -> None:
        self._began, self._puts, self.seconds = began, 0, 0.0

    def put(self, value: object) -> None:
        """Note when the first token came."""
        self._puts += 1
        if self._puts == 2:
            self.seconds = time.perf_counter() - self._began

    def end(self) -> None:
        """Nothing more comes."""


class _Batched:
    """The engine, asked everything at once."""

    def __init__(
        self, config: ServingConfig, adapters: list[Path], precision: str, device: str
    ) -> None:
        self._config = config
        self._ids: list[UUID] = []
        # Not nicer than the other contestant.
        rows = len(config.chats)
        self.engine = Engine(Hosting(rows=rows, precision=precision, device=device, niceness=0))
        for path in (None, *adapters):
            self._ids.append(uuid4())
            self.engine.attach(Served(self._ids[-1], str(path), "base", "", config.model, path))

    def turn(self, count: int) -> Turn:
        """Answer the first requests together."""
        began = time.perf_counter()
        first, ended = [0.0] * count, [Event() for _ in range(count)]
        failures: list[Exception] = []

        def listener(index: int) -> Callable[[Grown | Exception], None]:
            def listen(grown: Grown | Exception) -> None:
                if isinstance(grown, Exception):
                    failures.append(grown)
                    ended[index].set()
                    return
                first[index] = first[index] or time.perf_counter() - began
                if grown.finish_reason is not None:
                    ended[index].set()

            return listen

        asked = []
        for index, chat in enumerate(self._config.chats[:count]):
            generation = GenerationAsked(
                deployment_id=self._ids[0 if chat.adapter is None else chat.adapter + 1],
                account_id=PLATFORM_ACCOUNT_ID,
                messages=chat.messages,
                max_tokens=self._config.tokens,
                temperature=0,
                ignore_end=True,
            )
            asked.append(self.engine.ask(generation, lambda _, index=index: listener(index)))
        for each in ended:
            if not each.wait(LONGEST_SECONDS):
                raise TimeoutError("the engine did not answer")
        seconds = time.perf_counter() - began
        if failures:
            raise failures[0]
        answers = tuple(tuple(each.rows[0].tokens[each.prompt_tokens :]) for each in asked)
        return Turn(seconds=seconds, first_seconds=tuple(first), answers=answers)


def _adapter(model: Path, folder: Path, seed: int) -> Path:
    """Save an adapter that changes what a base says, though it learned nothing."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model, **UNTRUSTED), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01)
    directory = folder / f"adapter-{seed}"
    adapted.save_pretrained(str(directory), save_embedding_layers=False)
    return directory


if __name__ == "__main__":
    main()
