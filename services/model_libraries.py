"""Import and use of torch and its libraries, shared by the trainer and serving."""

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
    "TOKENIZERS_PARALLELISM": "true",  # only while torch does not compute
    # On shared cores a thread that spins for another one keeps it from running. One that sleeps at
    # once waits for the kernel after each of many small operations.
    # docs/measurements.md.
    "GOMP_SPINCOUNT": "5000",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # GPUs have the numbers that nvidia-smi shows
    # A size that always gives the same bits; torch reads it at the first product on a GPU. Source:
    # cuBLAS's notes on reproducibility.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}

UNTRUSTED: dict[str, Any] = {
    "trust_remote_code": False,  # None would ask on standard input
    "use_safetensors": True,  # other weights are pickles, which can run code
    "local_files_only": True,
}
"""Arguments that load a model as data, from this machine."""


def lean_imports(*, offline: bool = True, quantised: bool = False) -> None:
    """Prepare the process for importing torch, transformers and PEFT; call it before them.

    PEFT imports bitsandbytes if it is installed, and with it torch's compiler. That takes 1.2 s,
    and only a 4-bit base needs it.
    """
    for name, value in ENVIRONMENT.items():
        if offline or name != "HF_HUB_OFFLINE":
            os.environ.setdefault(name, value)
    # The libraries warn of each other's deprecations, which do not belong into a job's log.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    if quantised:
        # On a CPU it logs that it cannot download a faster kernel for inference.
        logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    else:
        # None in sys.modules means "not installed" to Python.
        sys.modules.setdefault("bitsandbytes", None)  # pyright: ignore[reportArgumentType]


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """torch's dtype of a Dtype."""
    import torch  # after `lean_imports`

    return torch.bfloat16 if dtype is Dtype.BF16 else torch.float32


def choose_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively, else float32.

    On a CPU that needs AMX or AVX512_BF16. Emulated bfloat16 is slower than float32.
    """
    import torch  # after `lean_imports`

    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = capabilities.get("amx_bf16", False) or capabilities.get("avx512_bf16", False)
    return torch.bfloat16 if native else torch.float32


def core_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer inside transformers' wrapper, which changes state at each call."""
    from transformers import PreTrainedTokenizerFast

    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer.backend_tokenizer
