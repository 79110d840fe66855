"""Import of a base model into the model store, from a hub, a directory or a GGUF file."""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domain.catalog.model_shape import ModelShape
from infrastructure.artifacts.store import MANIFEST, Artifacts
from infrastructure.base_models.imported_model import ImportedModel
from infrastructure.base_models.licenses import license_files, store_licenses
from infrastructure.chat.limited_rendering import LimitedTemplate, RenderingLimitExceeded
from infrastructure.chat.template_rendering import TEMPLATE_FILES, ChatRefused
from services.model_import.source import (
    FILES,
    LICENSES,
    ImportRefused,
    Source,
    require_layers,
    require_named,
    require_size,
    view_of,
)
from services.model_libraries import UNTRUSTED, context_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from transformers.modeling_utils import PreTrainedModel

PACKAGE = "package:"
USER = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "Good day."}
CALL = {"id": "1", "type": "function", "function": {"name": "greet", "arguments": {"to": "you"}}}
SIMPLEST_CHAT: list[dict[str, Any]] = [USER, ANSWER]
OTHER_CHATS: list[list[dict[str, Any]]] = [
    [USER],
    [{"role": "system", "content": "Be kind."}, USER, ANSWER, USER],
    [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "Hello, you.", "name": "greet", "tool_call_id": "1"},
        ANSWER,
    ],
]
"""Chats with which an import tests the template, with and without a generation prompt."""

RUNS_NO_CODE = "EcoLink does not run a model's own code."

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def import_model(source: str, name: str, artifacts: Artifacts) -> ImportedModel:
    """Store a base model and its tokenizer. Return the description of the model.

    The ref contains a hash of the content, so importing another model under the same name does not
    replace the base model of earlier jobs. The import stores the manifest last, so an interrupted
    import stays invisible. Raise ImportRefused if the source cannot be imported.
    """
    if not NAME.fullmatch(name):
        raise ImportRefused(
            f"Invalid model name {name!r}. Use at most 100 letters, digits, dots, dashes and "
            "underscores, starting with a letter or digit."
        )
    report(f"reading {source}")
    located = locate(source)
    tokenizer, model = _load(located)
    shape = shape_of(model)
    with tempfile.TemporaryDirectory(prefix="model-import-") as folder:
        directory = Path(folder)
        report(f"saving {shape.parameters:,} parameters as {model.dtype}")
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        require_template(directory)
        ref = f"models/{name}/{_content_hash(directory)[:16]}"
        if artifacts.exists(f"{ref}/{MANIFEST}"):
            report(f"{ref} is already stored")
            manifest = artifacts.manifest(ref)
        else:
            report(f"storing {ref}")
            manifest = artifacts.put_directory(ref, directory)
        store_licenses(artifacts, ref, _licenses(located))
    return ImportedModel(
        name=name,
        ref=ref,
        manifest_sha256=manifest.sha256,
        source=source,
        architecture=type(model).__name__,
        shape=shape,
        has_chat_template=tokenizer.chat_template is not None,
    )


def shape_of(model: PreTrainedModel) -> ModelShape:
    """Return the shape of a loaded model, from its configuration and its first layer's modules.

    Tied weights are counted once. Raise ImportRefused if the model cannot have an adapter.
    """
    config = model.config.get_text_config()
    try:
        return ModelShape(
            parameters=model.num_parameters(),
            layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            attention_heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None)
            or config.hidden_size // config.num_attention_heads,
            vocab_size=config.vocab_size,
            context_length=context_of(config) or config.max_position_embeddings,
            tied_embeddings=config.tie_word_embeddings,
            linears=_linears(model, config.num_hidden_layers),
        )
    except AttributeError as error:
        raise ImportRefused(
            f"EcoLink cannot fine-tune {type(model).__name__}: {error}. Import a model with "
            "another architecture."
        ) from error


def _linears(model: PreTrainedModel, layers: int) -> dict[str, tuple[int, int]]:
    """Return the inputs and outputs of the first layer's linear modules.

    The keys are the last parts of the modules' names.
    """
    from torch.nn import Linear, ModuleList

    stacks = (each for each in model.modules() if isinstance(each, ModuleList))
    stack = next((each for each in stacks if len(each) == layers), None)
    linears: dict[str, tuple[int, int]] = {}
    for name, module in stack[0].named_modules() if stack is not None else ():
        if isinstance(module, Linear):
            last = name.rpartition(".")[2]
            if last in linears:
                raise ImportRefused(
                    f"A layer has several linear modules named {last!r}. EcoLink does not support "
                    "mixture-of-experts models. Import another model."
                )
            linears[last] = (module.in_features, module.out_features)
    if not linears:
        raise ImportRefused(
            f"{type(model).__name__} has no linear modules for an adapter. Import another model."
        )
    return linears


def locate(source: str) -> Source:
    """Return a source. Download it if it is a hub repository.

    Raise ImportRefused if it does not exist or the download fails.
    """
    if source.startswith(PACKAGE):
        return _gguf(packaged_gguf(source.removeprefix(PACKAGE)))
    path = Path(source).expanduser()
    if path.is_file():
        return _gguf(path)
    if path.is_dir():
        return Source(path.resolve())
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise ImportRefused(f"No such file or directory: {source}. Check the path.")
    return _download(source)


def packaged_gguf(package: str) -> Path:
    """Return the path of the GGUF file in an installed package, without importing the package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportRefused(f"The Python package {package} is not installed. Install it first.")
    files = [file for path in spec.submodule_search_locations for file in Path(path).glob("*.gguf")]
    if len(files) != 1:
        raise ImportRefused(
            f"The Python package {package} has {len(files)} GGUF files, not one. Pass the path "
            "of one file."
        )
    return files[0]


def _gguf(path: Path) -> Source:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ImportRefused(f"{path} is not a GGUF file. Pass a GGUF file or a directory.")
    place = path.resolve()
    return Source(place.parent, place.name)


def _download(repository: str) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        snapshot = Path(snapshot_download(repository, allow_patterns=[*FILES, *LICENSES]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ImportRefused(
            f"Cannot download {repository}. Check its name and the connection to the Hugging Face "
            f"hub. {error}"
        ) from error
    return Source(snapshot, root=snapshot.parents[1])  # the files are links into the download cache


def _licenses(source: Source) -> list[Path]:
    """Return the licence files of a source. Other files may be beside a GGUF file."""
    if source.gguf_file is not None:
        return []
    root = (source.root or source.directory).resolve()
    found = license_files(source.directory)
    return [path for path in found if path.resolve().is_relative_to(root)]


def _load(source: Source) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load the tokenizer and the model.

    Raise ImportRefused if the model is not a causal language model.
    """
    from transformers import AutoTokenizer

    gguf = {} if source.gguf_file is None else {"gguf_file": source.gguf_file}
    with tempfile.TemporaryDirectory(prefix="model-source-") as folder:
        view = view_of(source, Path(folder))
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                view.directory, trust_remote_code=False, local_files_only=True, **gguf
            )
            model = _model(view)
        except ImportRefused:
            raise
        except Exception as error:  # an untrusted source may raise anything
            hint = f" {RUNS_NO_CODE}" if view.brings_code else ""
            raise ImportRefused(
                f"Cannot load the model in {source.directory}: {error}{hint}"
            ) from error
    if isinstance(tokenizer.chat_template, dict):
        require_named(tokenizer.chat_template)
    if not tokenizer.is_fast:
        raise ImportRefused(
            "The model has no fast tokenizer, which EcoLink needs to map tokens to text. Add "
            "a tokenizer.json."
        )
    return tokenizer, model


def _model(view: Source) -> PreTrainedModel:
    """Load the model from a view. Every weight in its configuration must be present.

    Weights keep their stored precision. GGUF blocks are dequantized to bfloat16, whose relative
    rounding error is 1/256. A 4-bit block is already rounded to 1/16 of its range.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig

    if view.gguf_file is not None:
        options: dict[str, Any] = {
            "gguf_file": view.gguf_file,
            "quantization_config": GgufConfig(dequantize=True),
            "dtype": torch.bfloat16,
        }
    else:
        config = AutoConfig.from_pretrained(
            view.directory, trust_remote_code=False, local_files_only=True
        )
        require_layers(config)
        with torch.device("meta"):
            described = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        require_size(described.num_parameters(), view.directory)
        options = {"dtype": "auto", "ignore_mismatched_sizes": True}  # rejected by name below
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        view.directory, output_loading_info=True, **options, **UNTRUSTED
    )
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):  # they would be initialized randomly
        raise ImportRefused(
            f"The weights lack {len(missing):,} of the model's parameters, such as "
            f"{missing[0]}. Add the missing weights."
        )
    for name, stored, configured in loading["mismatched_keys"]:
        raise ImportRefused(
            f"{name} has the shape {tuple(stored)}, but config.json describes "
            f"{tuple(configured)}. Correct config.json."
        )
    return model


def require_template(directory: Path) -> None:
    """Test the chat template of a saved model in a resource-limited process.

    Raise ImportRefused if the template is invalid, exceeds the limits or rejects the simplest chat.
    """
    report("testing the chat template")
    files = {name: directory / name for name in TEMPLATE_FILES}
    found = {name: path.read_bytes() for name, path in files.items() if path.exists()}
    try:
        template = LimitedTemplate.of(found)
        template.render(SIMPLEST_CHAT)
        for messages, prompt in product(OTHER_CHATS, (False, True)):
            try:
                template.render(messages, prompt=prompt)
            except RenderingLimitExceeded:
                raise
            except ChatRefused:
                pass  # a template need not support system messages or tools
    except ChatRefused as refused:
        raise ImportRefused(
            f"EcoLink cannot use this model: {refused}. Correct its chat template, then import it "
            "again."
        ) from refused


def _content_hash(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(directory).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def report(text: str) -> None:
    """Print progress to stderr."""
    print(text, file=sys.stderr, flush=True)
