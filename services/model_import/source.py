"""A filtered view of a base model's source, with only the data files that an import may read.

transformers runs Python files named in a configuration, unpickles weights, and opens any path in an
index or a configuration. The importer therefore passes it only the filtered view.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WEIGHTS = "*.safetensors"
INDEX = "model.safetensors.index.json"
TEXTS = ("*.json", "*.jinja", "*.model", "*.txt")
FILES = (*TEXTS, WEIGHTS)

LICENSES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
"""Files of a repository that an import keeps beside the base model."""


CONFIGS = frozenset({"config.json", "generation_config.json", "tokenizer_config.json"})
"""Configuration files. The view has copies without the fields that name code or other files."""

MOST_TEXT_BYTES = 256 * 1024**2
"""Size limit of files that the import reads whole. The largest tokenizers have 35 MB."""

TEMPLATES = "additional_chat_templates"
"""Folder with named chat templates, such as `tool_use.jinja`."""

TEMPLATE_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
MOST_TEMPLATES, MOST_TEMPLATE_BYTES = 16, 1024**2

MOST_LAYERS = 1_000
MOST_TOKENS = 2**24
"""Tokenizers visit every ID up to the largest one of their vocabulary."""

PARAMETERS_PER_BYTE = 2  # for 4-bit packed weights

CODE_FIELDS = {"auto_map", "custom_generate", "custom_pipelines"} | {
    # A value with a slash names a repository of compiled kernels.
    f"{prefix}{part}_implementation{suffix}"
    for part in ("attn", "experts")
    for prefix, suffix in (("", ""), ("_", ""), ("_", "_internal"))
}
"""Fields of a configuration that make transformers run or download code. The view omits them."""


class ImportRefused(Exception):
    """The source is not a base model that EcoLink can fine-tune. The message states the reason."""


@dataclass(frozen=True)
class Source:
    """A model directory, with the file name if the model is a GGUF file.

    Symbolic links may point inside `root`, the download cache. If `root` is None, they must stay
    inside the directory.
    """

    directory: Path
    gguf_file: str | None = None
    root: Path | None = None
    brings_code: bool = False  # code was removed from the view


def view_of(source: Source, into: Path) -> Source:
    """Link the allowed files into an empty folder, and copy filtered configurations.

    Raise ImportRefused if a file is missing, too large, outside the source, or not a regular file.
    """
    if source.gguf_file is not None:
        (into / source.gguf_file).symlink_to(_inside(source, source.gguf_file))
        return Source(into, source.gguf_file)
    names = sorted({path.name for kind in FILES for path in source.directory.glob(kind)})
    if "config.json" not in names:
        if "adapter_config.json" in names:
            raise ImportRefused(
                f"{source.directory} is an adapter, not a base model. Import its base model."
            )
        raise ImportRefused(
            f"{source.directory} has no config.json. Pass a directory that save_pretrained wrote, "
            "a GGUF file or a Hugging Face repository."
        )
    if not any(name.endswith(".safetensors") or name == INDEX for name in names):
        raise ImportRefused(
            f"{source.directory} has no .safetensors file. EcoLink reads no other weights, "
            "because pickle files can run code. Convert the model with save_pretrained first."
        )
    templates = [
        f"{TEMPLATES}/{path.name}" for path in source.directory.glob(f"{TEMPLATES}/*.jinja")
    ]
    require_count(templates)
    (into / TEMPLATES).mkdir()
    for name in (*names, *sorted(templates)):
        if not name.startswith("adapter_"):
            _add(source, name, into / name)
    _require_shards(into)
    _require_token_ids(into)
    brings_code = any("auto_map" in _json(source.directory / each) for each in CONFIGS & {*names})
    return Source(into, brings_code=brings_code)


def require_count(templates: Collection[str]) -> None:
    """Raise ImportRefused if a source has too many named chat templates."""
    if len(templates) > MOST_TEMPLATES:
        raise ImportRefused(
            f"The model has {len(templates):,} named chat templates. The maximum is "
            f"{MOST_TEMPLATES}. Keep default and tool_use, and remove others."
        )


def require_named(templates: Mapping[str, Any]) -> None:
    """Raise ImportRefused if named chat templates cannot be saved as files of these names."""
    require_count(templates)
    for name, template in templates.items():
        if not TEMPLATE_NAME.fullmatch(name) or not isinstance(template, str):
            raise ImportRefused(
                f"The model has a chat template with the name {name[:100]!r}. Templates are texts, "
                "and their names have letters, digits, dots, dashes and underscores. Rename it."
            )
    if "default" not in templates:
        raise ImportRefused(
            "The model has several chat templates, but none is named default. Add "
            "chat_template.jinja."
        )


def require_size(parameters: int, directory: Path) -> None:
    """Raise ImportRefused if the configuration has more parameters than the weights."""
    most = sum(path.stat().st_size for path in directory.glob(WEIGHTS)) * PARAMETERS_PER_BYTE
    if parameters > most:
        raise ImportRefused(
            f"config.json describes {parameters:,} parameters, but the weights have at most "
            f"{most:,}. Correct config.json."
        )


def require_layers(config: Any) -> None:
    """Raise ImportRefused if the model has too many layers, which would take too long to build."""
    layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    if not isinstance(layers, int) or layers > MOST_LAYERS:
        raise ImportRefused(
            f"num_hidden_layers is {layers!r}. The maximum is {MOST_LAYERS}. Import a smaller "
            "model."
        )


def _inside(source: Source, name: str) -> Path:
    """Return the resolved path of a file. Raise ImportRefused if it is outside the source."""
    path, root = source.directory / name, (source.root or source.directory).resolve()
    place = path.resolve()
    if not place.is_relative_to(root):
        raise ImportRefused(
            f"{path} is a link to {place}, outside {root}. Copy the file into the directory."
        )
    if not place.is_file():
        raise ImportRefused(f"{path} is not a regular file. Replace it with one.")
    return place


def _add(source: Source, name: str, target: Path) -> None:
    place = _inside(source, name)
    most = MOST_TEMPLATE_BYTES if name.endswith(".jinja") else MOST_TEXT_BYTES
    if not name.endswith(".safetensors") and (size := place.stat().st_size) > most:
        raise ImportRefused(
            f"{name} has {size:,} bytes. The maximum is {most:,}. Shorten the file."
        )
    if name in CONFIGS:
        config = _without_code(_json(place))
        if name == "tokenizer_config.json":  # a path in it would override the file next to it
            config = {k: v for k, v in config.items() if not k.endswith(("_file", "_files"))}
        target.write_text(json.dumps(config))
    else:
        target.symlink_to(place)


def _require_shards(view: Path) -> None:
    """Raise ImportRefused if an index names files outside its own directory."""
    weights = _json(view / INDEX).get("weight_map") if (view / INDEX).exists() else {}
    if not isinstance(weights, dict):
        raise ImportRefused(f"{INDEX} has no valid weight_map. Download the file again.")
    shards = {path.name for path in view.glob(WEIGHTS)}
    for shard in weights.values():
        if shard not in shards:
            raise ImportRefused(
                f"{INDEX} names {shard!r}, which is not in the same directory. Add the file."
            )


def _require_token_ids(view: Path) -> None:
    """Raise ImportRefused if a vocabulary has an ID that is too large."""
    for name in {"tokenizer.json", "vocab.json"} & {path.name for path in view.iterdir()}:
        content = _json(view / name)
        model = content if name == "vocab.json" else content.get("model")
        vocabulary = model.get("vocab", model) if isinstance(model, dict) else {}
        if isinstance(vocabulary, dict):
            for token, number in vocabulary.items():
                if isinstance(number, int) and number >= MOST_TOKENS:
                    raise ImportRefused(
                        f"The token {token[:50]!r} in {name} has the ID {number}. The largest ID "
                        f"can be {MOST_TOKENS - 1:,}. Correct the file."
                    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ImportRefused(f"{path.name} is not JSON: {error}. Correct the file.") from error
    if not isinstance(content, dict):
        raise ImportRefused(f"{path.name} is not a JSON object. Correct the file.")
    return content


def _without_code(value: Any) -> Any:
    """Return a configuration without the fields that refer to code, at any depth."""
    if isinstance(value, dict):
        return {key: _without_code(each) for key, each in value.items() if key not in CODE_FIELDS}
    if isinstance(value, list):
        return [_without_code(each) for each in value]
    return value
