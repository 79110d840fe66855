"""How the model libraries are imported: offline, quiet, and without the parts that go unused."""

from __future__ import annotations

import os
import sys
import warnings

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # models come from the artifact store, never from a hub
    "TOKENIZERS_PARALLELISM": "false",  # the threads belong to torch
    "GOMP_SPINCOUNT": "5000",  # as in trainers, which share the cores (see DECISIONS.md)
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


def lean_imports() -> None:
    """Prepare the process for importing torch, transformers and peft; call it before them."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # None in sys.modules is Python's own way to say "not installed": peft imports bitsandbytes
    # wherever it is, and with it torch's compiler.
    sys.modules.setdefault("bitsandbytes", None)  # pyright: ignore[reportArgumentType]
