"""The files of an export beside its weights: tokenizer, licence, model card and provenance."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from shutil import copyfile
from typing import Any
from uuid import UUID

import yaml
from pydantic import BaseModel, ConfigDict

from domain.jobs.documents import CARD, PROVENANCE
from extensions.exports.domain.export import ExportFormat, ExportSource
from infrastructure.artifacts.store import ManifestFile
from infrastructure.chat.chat_template import CHAT_TEMPLATE, FALLBACK_CHAT_TEMPLATE
from infrastructure.chat.template_rendering import TOOL_TEMPLATE_FILE

ORIGIN = "export.json"
"""Name of the file with the Origin of an export."""

CONFIGS = ("config.json", "generation_config.json")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    CHAT_TEMPLATE,
    TOOL_TEMPLATE_FILE,
)
SECTIONS = ("Result", "Hyperparameters")
"""Sections of the adapter's card that the card of an export repeats."""

LIBRARIES = ("ecolink", "torch", "transformers", "peft", "safetensors", "gguf", "numpy")


class Origin(BaseModel):
    """The origin of an export in export.json, without times, so that its bytes are the same."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    model: str
    job_id: UUID
    format: ExportFormat
    source: ExportSource
    libraries: dict[str, str]
    files: tuple[ManifestFile, ...] = ()  # all other files

    @property
    def content(self) -> bytes:
        """Contents of export.json."""
        return self.model_dump_json(indent=1).encode()


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that write an export."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def copy_tokenizer(base: Path, adapter: Path, target: Path) -> None:
    """Copy the configuration and tokenizer of the base model.

    If it has no chat template, copy the one with which the adapter was trained. Checkpoints that
    version 0.1 saved lack it, but were trained with FALLBACK_CHAT_TEMPLATE.
    """
    for name in (*CONFIGS, *TOKENIZER):
        if (base / name).exists():
            (target / name).parent.mkdir(exist_ok=True)
            copyfile(base / name, target / name)
    has_template = (target / CHAT_TEMPLATE).exists() or _names_template(target)
    if has_template:
        return
    if (adapter / CHAT_TEMPLATE).exists():
        copyfile(adapter / CHAT_TEMPLATE, target / CHAT_TEMPLATE)
    else:
        (target / CHAT_TEMPLATE).write_text(FALLBACK_CHAT_TEMPLATE)


def copy_documents(licenses: Path, adapter: Path, target: Path) -> None:
    """Copy the licence of the base model, and the provenance of the adapter."""
    for path in licenses.iterdir():
        copyfile(path, target / path.name)
    if (adapter / PROVENANCE).exists():
        copyfile(adapter / PROVENANCE, target / PROVENANCE)


def card(origin: Origin, file: str | None, repository: str | None, trained: str | None) -> str:
    """Return the model card as Markdown with YAML metadata.

    `file` is the GGUF file, `repository` the base model's name on a hub, and `trained` the card of
    the adapter, whose results and hyperparameters the card repeats.
    """
    base = repository or origin.source.base_model
    relation = "finetune" if file is None else "quantized"
    head: dict[str, Any] = {
        "base_model": base,
        "library_name": "transformers" if file is None else "gguf",
        "pipeline_tag": "text-generation",
        "tags": ["ecolink", f"base_model:{relation}:{base}"],
    }
    use = _transformers(origin) if file is None else _gguf(file)
    rows = [
        ("Job", f"`{origin.job_id}`"),
        ("Format", origin.format.value),
        ("Adapter's manifest (sha256)", f"`{origin.source.adapter_manifest_sha256}`"),
        ("Base model's manifest (sha256)", f"`{origin.source.base_manifest_sha256}`"),
        ("Libraries", ", ".join(f"{name} {v}" for name, v in origin.libraries.items())),
    ]
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {origin.model}\n\n"
        f"{base}, fine-tuned with EcoLink. The adapter is merged into the weights.\n\n{use}\n"
        f"{_sections(trained)}## Export\n\n{table}\n\n`{ORIGIN}` has the same facts as JSON, with "
        "the hash of every file.\n"
    )


def _transformers(origin: Origin) -> str:
    return (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("path/of/this/directory", dtype="auto")\n'
        'tokenizer = AutoTokenizer.from_pretrained("path/of/this/directory")\n```\n'
    )


def _gguf(file: str) -> str:
    return (
        f"With Ollama, in this directory: `ollama create my-model -f Modelfile`. With llama.cpp: "
        f"`llama-cli -m {file}`.\n"
    )


def _sections(trained: str | None) -> str:
    """Return the sections that a public card may have: those without the job's cost and region."""
    sections = f"\n{trained or ''}".split("\n## ")[1:]
    kept = [each for each in sections if each.partition("\n")[0] in SECTIONS]
    return "".join(f"## {each.rstrip()}\n\n" for each in kept)


def card_of(adapter: Path) -> str | None:
    """Return the adapter's model card, or None."""
    path = adapter / CARD
    return path.read_text() if path.exists() else None


def repository_of(adapter: Path) -> str | None:
    """Return the base model's name on a hub according to the adapter's provenance, or None."""
    path = adapter / PROVENANCE
    return json.loads(path.read_bytes())["base"]["repository"] if path.exists() else None


def _names_template(target: Path) -> bool:
    config = target / "tokenizer_config.json"
    return config.exists() and bool(json.loads(config.read_bytes()).get("chat_template"))
