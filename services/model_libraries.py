"""Setup of torch and related libraries for the trainer and serving."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from domain.estimating.footprint import PAD_MULTIPLE
from domain.training.precision import Dtype

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # models come from the artifact store, never from a hub
    "TOKENIZERS_PARALLELISM": "true",  # tokenizers run only while torch is idle
    # On shared cores, a spinning thread can prevent the thread that it waits for from running. A
    # thread that sleeps immediately needs a kernel wake-up after each small operation. See
    # docs/understand/measurements.md.
    "GOMP_SPINCOUNT": "5000",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # numbers GPUs as nvidia-smi does
    # Makes cuBLAS deterministic. torch reads the variable at the first matrix product on a GPU.
    # Source: cuBLAS documentation, "Results reproducibility".
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}

UNTRUSTED: dict[str, Any] = {
    "trust_remote_code": False,  # with None, transformers would prompt on standard input
    "use_safetensors": True,  # other formats are pickles, which can run code
    "local_files_only": True,
}
"""Arguments that load a model only as data, and only from this machine."""


def lean_imports(*, offline: bool = True, quantized: bool = False) -> None:
    """Prepare the process to import torch, transformers and PEFT. Call this before the imports.

    If bitsandbytes is installed, PEFT imports it and torch's compiler. That takes 1.2 s, and only a
    4-bit base model needs it.
    """
    for name, value in ENVIRONMENT.items():
        if offline or name != "HF_HUB_OFFLINE":
            os.environ.setdefault(name, value)
    # The libraries' deprecation warnings about each other do not belong in a job's log.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    if quantized:
        # On a CPU, bitsandbytes logs that it cannot download a faster inference kernel.
        logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    else:
        # With None in sys.modules, Python treats the module as not installed.
        sys.modules.setdefault("bitsandbytes", None)  # pyright: ignore[reportArgumentType]


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """Return the torch dtype of a Dtype."""
    import torch  # only after `lean_imports`

    return torch.bfloat16 if dtype is Dtype.BF16 else torch.float32


def choose_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 if the hardware multiplies it natively, otherwise float32.

    On a CPU, native bfloat16 requires AMX or AVX512_BF16. Emulated bfloat16 is slower than float32.
    """
    import torch  # only after `lean_imports`

    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = capabilities.get("amx_bf16", False) or capabilities.get("avx512_bf16", False)
    return torch.bfloat16 if native else torch.float32


def context_of(config: PreTrainedConfig) -> int | None:
    """Return the context length of a base model in tokens, or None if it declares none.

    The frequencies of some rotary embeddings (longrope, dynamic) depend on the longest sequence of
    a batch. Up to the original context, they do not, so a longer one would let sequences of a batch
    change each other. Padding, which also counts, must not exceed it.
    """
    text = config.get_text_config()
    declared = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [rope, *(each for each in rope.values() if isinstance(each, dict))]  # or one per layer
    types = [each.get("rope_type") for each in kinds]
    if not {"longrope", "dynamic"}.intersection(types):
        return declared
    originals = [each.get("original_max_position_embeddings") for each in kinds]
    length = min(each for each in (declared, *originals) if each)
    return length // PAD_MULTIPLE * PAD_MULTIPLE


def core_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Return the tokenizer inside the wrapper of transformers, which changes state on each call."""
    from transformers import PreTrainedTokenizerFast

    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer.backend_tokenizer
