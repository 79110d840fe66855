"""Import of base models from a directory, a GGUF file, and a package with one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy
import pytest
import torch
from gguf import GGUFWriter
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from domain.catalog.catalog_entries import CatalogBase, shipped_offers
from infrastructure.artifacts.store import MANIFEST, Artifacts
from infrastructure.base_models.imported_model import ImportedModel
from infrastructure.chat.base_tokenizer import BaseTokenizer
from services.datasets.examples import read_example
from services.model_import.importer import (
    ImportRefused,
    import_model,
    packaged_gguf,
    shape_of,
)
from services.serving.chat import Chat
from services.trainer.examples import Renderer
from services.trainer.model import load_base, load_tokenizer
from tests.builders.tiny_model import CHAT_TEMPLATE, TINY_SHAPE
from tests.builders.tool_templates import CHAT, STYLES

FAMILIES = {
    "smollm2": "llama",
    "llama": "llama",
    "qwen2.5": "qwen2",
    "mistral": "mistral",
    "gemma-2": "gemma2",
    "phi": "phi3",
}
"""Architectures of the catalog's bases, by the beginning of their name."""


@pytest.fixture
def store(tmp_path: Path) -> Artifacts:
    return Artifacts((tmp_path / "artifacts").as_uri())


def test_a_directory_is_imported_with_its_description(store: Artifacts, tiny_model: Path) -> None:
    imported = import_model(str(tiny_model), "tiny", store)
    original = load_base(tiny_model, torch.float32)
    assert imported == ImportedModel(
        name="tiny",
        ref=imported.ref,
        manifest_sha256=store.manifest(imported.ref).sha256,
        source=str(tiny_model),
        architecture="LlamaForCausalLM",
        shape=TINY_SHAPE,
        has_chat_template=True,
    )
    stored = load_base(store.local_directory(imported.ref, Path()), torch.float32)
    for name, value in original.state_dict().items():
        assert torch.equal(value, stored.state_dict()[name])


def test_the_same_import_changes_nothing_and_completes_an_interrupted_one(
    store: Artifacts, tiny_model: Path
) -> None:
    first = import_model(str(tiny_model), "tiny", store)
    assert import_model(str(tiny_model), "tiny", store) == first
    store.delete(f"{first.ref}/{MANIFEST}")
    store.put(f"{first.ref}/config.json", b"half")
    with pytest.raises(FileNotFoundError):
        store.local_directory(first.ref, Path())
    assert import_model(str(tiny_model), "tiny", store) == first
    assert json.loads(store.get(f"{first.ref}/config.json"))["hidden_size"] == 32


@pytest.mark.parametrize("template", STYLES.values(), ids=STYLES)
def test_an_import_keeps_the_chat_template_for_tools(
    template: str, store: Artifacts, tiny_model: Path, tmp_path: Path
) -> None:
    """The stored tokenizer and the trainer's give the token IDs of transformers."""
    source = shutil.copytree(tiny_model, tmp_path / "source")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = {"default": CHAT_TEMPLATE, "tool_use": template, "rag": "{{ 1 }}"}
    tokenizer.save_pretrained(source)
    imported = import_model(str(source), "tiny", store)
    directory = store.local_directory(imported.ref, Path())
    assert (directory / "additional_chat_templates" / "rag.jinja").exists()
    conversation = read_example(json.dumps(CHAT), [])
    expected = AutoTokenizer.from_pretrained(source).apply_chat_template(
        conversation["messages"], tools=conversation["tools"], tokenize=True
    )
    trainer = Renderer(load_tokenizer(directory), 10_000)
    for renderer in (BaseTokenizer.stored(store, imported.ref), trainer):
        (example,) = renderer.render(conversation)
        assert list(example.input_ids) == expected["input_ids"]
    messages, prompt = trainer.prompt(conversation)
    assert Chat(trainer.tokenizer).text(messages, conversation["tools"]) == prompt


def test_a_licence_is_kept_beside_the_base_model(
    store: Artifacts, tiny_model: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(tiny_model, tmp_path / "source")
    before = import_model(str(source), "tiny", store)
    (source / "LICENSE.md").write_text("Apache 2.0")
    (source / "NOTICE").symlink_to("/etc/hostname")
    after = import_model(str(source), "tiny", store)
    assert (after.ref, after.manifest_sha256) == (before.ref, before.manifest_sha256)
    assert store.get(f"{after.ref}/LICENSE.md") == b"Apache 2.0"
    assert not store.exists(f"{after.ref}/NOTICE")


def test_a_gguf_file_keeps_its_weights_template_and_special_tokens(
    store: Artifacts, tiny_model: Path, tmp_path: Path
) -> None:
    path = write_gguf(tiny_model, tmp_path / "tiny.gguf")
    imported = import_model(str(path), "tiny-gguf", store)
    directory = store.local_directory(imported.ref, Path())
    tokenizer, original = load_tokenizer(directory), load_tokenizer(tiny_model)
    assert imported.has_chat_template
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
    ids = original(text)["input_ids"]
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
    inputs = torch.tensor([ids])
    with torch.inference_mode():
        before = load_base(tiny_model, torch.float32)(input_ids=inputs).logits
        after = load_base(directory, torch.float32)(input_ids=inputs).logits
    assert torch.allclose(before, after, atol=0.02)  # stored as bfloat16


def test_the_gguf_file_of_a_package_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "boxed_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('needs a compiler')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportRefused, match="boxed_model"):
        packaged_gguf("boxed_model")
    (package / "model.gguf").write_bytes(b"GGUF")
    assert packaged_gguf("boxed_model") == package / "model.gguf"
    with pytest.raises(ImportRefused, match="no_such_package"):
        packaged_gguf("no_such_package")


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("/no/such/place", "tiny", "/no/such/place"),
        ("{empty}", "tiny", "config.json"),
        ("{empty}", "../tiny", "'../tiny'"),
        ("{text}", "tiny", "text"),
    ],
)
def test_an_invalid_source_or_name_is_refused_by_name(
    store: Artifacts, tmp_path: Path, source: str, name: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello")
    places = {"empty": tmp_path / "empty", "text": tmp_path / "text"}
    with pytest.raises(ImportRefused, match=message):
        import_model(source.format(**places), name, store)
    assert store.list("models") == []


@pytest.mark.parametrize("base", shipped_offers().bases, ids=lambda base: base.name)
def test_the_catalog_has_the_shapes_that_transformers_builds(base: CatalogBase) -> None:
    """Models built on the meta device from the catalog's figures have its parameter counts."""
    family = next(word for word in FAMILIES if base.name.startswith(word))
    shape = base.shape
    config = AutoConfig.for_model(
        FAMILIES[family],
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.attention_heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.context_length,
        tie_word_embeddings=shape.tied_embeddings,
        pad_token_id=0,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape_of(model) == shape


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gpt2", {"n_layer": 1, "n_embd": 8, "n_head": 1}),
        ("mamba", {"num_hidden_layers": 1, "hidden_size": 8}),
    ],
)
def test_an_unsupported_architecture_is_refused(kind: str, settings: dict[str, int]) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    with pytest.raises(ImportRefused, match=type(model).__name__):
        shape_of(model)


def test_a_layer_needs_linear_modules_with_unique_names(tiny_model: Path) -> None:
    model = load_base(tiny_model, torch.float32)
    first = model.model.layers[0]
    first.add_module("cross_attention", deepcopy(first.self_attn))
    with pytest.raises(ImportRefused, match="q_proj"):
        shape_of(model)
    model.model.layers[0] = torch.nn.Identity()
    with pytest.raises(ImportRefused, match="LlamaForCausalLM"):
        shape_of(model)


@pytest.mark.full
def test_the_command_ends_with_one_line_of_json(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECOLINK_ARTIFACTS_URL", (tmp_path / "artifacts").as_uri())
    command = [sys.executable, "-m", "services.model_import", "--name", "tiny"]
    done = subprocess.run(
        [*command, "--source", str(tiny_model)], capture_output=True, check=True, text=True
    )
    assert ImportedModel.model_validate_json(done.stdout).name == "tiny"
    assert "storing models/tiny/" in done.stderr


def write_gguf(model_directory: Path, path: Path) -> Path:
    """Write the tiny model as a GGUF file, like llama.cpp's converter."""
    model = LlamaForCausalLM.from_pretrained(model_directory, dtype=torch.float32)
    core = json.loads((model_directory / "tokenizer.json").read_text())["model"]
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(core["vocab"], key=core["vocab"].get))
    writer.add_token_types([3] * 3 + [1] * (config.vocab_size - 3))
    writer.add_token_merges([" ".join(merge) for merge in core["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
    for name, value in model.state_dict().items():
        if name != "lm_head.weight":  # tied to the embedding
            writer.add_tensor(*_as_gguf(name, value.numpy(), heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
}


def _as_gguf(name: str, value: numpy.ndarray, heads: dict[str, int]) -> tuple[str, numpy.ndarray]:
    """A tensor under llama.cpp's name, the rows of q and k in its order of rotation."""
    for letter, count in heads.items():
        if f"self_attn.{letter}_proj" in name:
            halves = value.reshape(count, 2, value.shape[0] // count // 2, value.shape[1])
            value = halves.swapaxes(1, 2).reshape(value.shape)
    for ours, theirs in GGUF_NAMES.items():
        name = name.replace(ours, theirs)
    return name, numpy.ascontiguousarray(value)
