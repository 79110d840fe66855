"""How the training stack is imported: offline, quiet, and without the parts that go unused."""

from __future__ import annotations

import logging
import os
import sys
import warnings

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # a trainer reads the artifact store, never a hub
    "TOKENIZERS_PARALLELISM": "false",  # the threads belong to torch
    # On shared cores a thread that spins for its neighbour keeps it from running; one that sleeps
    # at once waits for the kernel after each of a thousand small operations (see DECISIONS.md).
    "GOMP_SPINCOUNT": "5000",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


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
