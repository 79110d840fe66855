"""What trainer and serving share of torch and its libraries: how they are imported and used."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from domain.training.precision import Dtype

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # models come from the artifact store, never from a hub
    "TOKENIZERS_PARALLELISM": "true",  # of several texts, which no process has while torch computes
    # On shared cores a thread that spins for its neighbour keeps it from running; one that sleeps
    # at once waits for the kernel after each of a thousand small operations; see
    # docs/measurements.md.
    "GOMP_SPINCOUNT": "5000",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # GPUs have the numbers that nvidia-smi tells
    # Of a size that always gives the same bits. torch looks once in a process, at the first product
    # on a GPU, whatever that is for. Source: cuBLAS's notes on reproducibility.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}

UNTRUSTED: dict[str, Any] = {
    "trust_remote_code": False,  # None would ask on standard input
    "use_safetensors": True,  # other weights are pickles, which can run code
    "local_files_only": True,
}
"""How every model is loaded: as data, from this machine."""


def lean_imports(*, offline: bool = True, quantised: bool = False) -> None:
    """Prepare the process for importing torch, transformers and peft; call it before them.

    peft imports bitsandbytes wherever it is installed, and with it torch's compiler: 1.2 s before
    the first step of every segment, for quantisation that only a 4-bit base uses.
    """
    for name, value in ENVIRONMENT.items():
        if offline or name != "HF_HUB_OFFLINE":
            os.environ.setdefault(name, value)
    # The libraries deprecate each other's ways; nothing that a job's log should speak of.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    if quantised:
        # On a CPU it misses a faster kernel for inference that it would fetch from a hub.
        logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    else:
        # None in sys.modules is Python's own way to say "not installed".
        sys.modules.setdefault("bitsandbytes", None)  # pyright: ignore[reportArgumentType]


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """torch's name of a dtype."""
    import torch  # after `lean_imports`

    return torch.bfloat16 if dtype is Dtype.BF16 else torch.float32


def choose_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively, else float32.

    On a CPU that is AMX or AVX512_BF16; elsewhere bfloat16 is emulated and slower than float32.
    """
    import torch  # after `lean_imports`

    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = capabilities.get("amx_bf16", False) or capabilities.get("avx512_bf16", False)
    return torch.bfloat16 if native else torch.float32


def core_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer inside the library's wrapper, which changes its state at each call."""
    from transformers import PreTrainedTokenizerFast

    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer.backend_tokenizer
