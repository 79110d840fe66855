"""Modules of this extension that use a library which opens what a document names."""

from __future__ import annotations

IMPORTERS = {
    "huggingface_hub": {
        "extensions/exports/worker/hub.py",
        "extensions/exports/worker/safetensors_files.py",
    },
    "yaml": {"extensions/exports/documents.py"},
}
