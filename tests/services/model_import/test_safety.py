"""An import runs no code of its source, and reads no file outside of it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from infrastructure.artifacts.store import Artifacts
from services.model_import import source as model_source
from services.model_import.importer import RUNS_NO_CODE, ImportRefused, import_model

TEMPLATES = model_source.TEMPLATES


@pytest.fixture
def store(tmp_path: Path) -> Artifacts:
    return Artifacts((tmp_path / "artifacts").as_uri())


@pytest.fixture
def source(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "source"))


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def write_code(source: Path, trace: Path) -> None:
    """Write Python files that leave a trace when they run, and name them in the configuration."""
    (source / "evil.py").write_text(
        f"open({str(trace)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class Config(LlamaConfig):\n    model_type = 'evil'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
        "class Tokenizer(PreTrainedTokenizerFast): pass\n"
    )
    code = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    change(source / "config.json", auto_map=code, model_type="evil")
    change(
        source / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]},
        tokenizer_class="Tokenizer",
    )


@pytest.mark.full
def test_code_in_a_directory_never_runs(source: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    write_code(source, trace)
    command = [sys.executable, "-m", "services.model_import", "--name", "tiny"]
    done = subprocess.run(
        [*command, "--source", str(source)],
        input="y\n" * 5,
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "ECOLINK_ARTIFACTS_URL": (tmp_path / "artifacts").as_uri(),
            "HF_HOME": str(tmp_path / "hf"),
        },
    )
    assert not trace.exists()
    assert done.returncode == 1
    assert RUNS_NO_CODE in done.stderr
    assert "Traceback" not in done.stderr


def test_a_known_architecture_is_imported_without_its_code(
    store: Artifacts, source: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    write_code(source, trace)
    change(source / "config.json", model_type="llama", attn_implementation="evil/kernel")
    change(source / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    imported = import_model(str(source), "tiny", store)
    assert not trace.exists()
    for name in ("config.json", "tokenizer_config.json"):
        stored = json.loads(store.get(f"{imported.ref}/{name}"))
        assert not {"auto_map", "attn_implementation"} & stored.keys()


def test_pickled_weights_are_refused(store: Artifacts, source: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "trace"), "w"))

    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ImportRefused, match=r"\.safetensors"):
        import_model(str(source), "tiny", store)
    assert not (tmp_path / "trace").exists()


Damage = Callable[[Path, Path], None]


def link_out(source: Path, outside: Path) -> None:
    moved = outside / "model.safetensors"
    shutil.move(source / "model.safetensors", moved)
    (source / "model.safetensors").symlink_to(moved)


def index_out(source: Path, outside: Path) -> None:
    weights = load_file(source / "model.safetensors")
    shutil.move(source / "model.safetensors", outside / "model.safetensors")
    index = {
        "metadata": {},
        "weight_map": dict.fromkeys(weights, f"../{outside.name}/model.safetensors"),
    }
    (source / "model.safetensors.index.json").write_text(json.dumps(index))


def index_absolute(source: Path, outside: Path) -> None:
    index_out(source, outside)
    path = source / "model.safetensors.index.json"
    weight_map = json.loads(path.read_text())["weight_map"]
    change(path, weight_map=dict.fromkeys(weight_map, str(outside / "model.safetensors")))


def pipe(source: Path, outside: Path) -> None:
    (source / "generation_config.json").unlink()
    os.mkfifo(source / "generation_config.json")


def huge_text(source: Path, outside: Path) -> None:
    with (source / "special_tokens_map.json").open("wb") as file:
        file.truncate(model_source.MOST_TEXT_BYTES + 1)


def huge_header(source: Path, outside: Path) -> None:
    content = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + content[8:])


def header(change: Callable[[dict[str, Any]], object], keep: int | None = None) -> Damage:
    """Change the header of the weights, and keep only the first bytes of their content."""

    def damage(source: Path, outside: Path) -> None:
        content = (source / "model.safetensors").read_bytes()
        size = 8 + int.from_bytes(content[:8], "little")
        tensors = json.loads(content[8:size])
        change(tensors)
        changed = json.dumps(tensors).encode()
        (source / "model.safetensors").write_bytes(
            len(changed).to_bytes(8, "little") + changed + content[size:][:keep]
        )

    return damage


def norms_overlap(tensors: dict[str, Any]) -> None:
    first, second = (f"model.layers.{n}.input_layernorm.weight" for n in (0, 1))
    tensors[second]["data_offsets"] = tensors[first]["data_offsets"]


def deep_header(source: Path, outside: Path) -> None:
    text = b'{"a":' * 100_000
    (source / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)


def tokenizer(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(source: Path, outside: Path) -> None:
        content = json.loads((source / "tokenizer.json").read_text())
        change(content)
        (source / "tokenizer.json").write_text(json.dumps(content))

    return damage


def deep_tokenizer(source: Path, outside: Path) -> None:
    (source / "tokenizer.json").write_text('{"a":' * 200_000)


def no_json(source: Path, outside: Path) -> None:
    (source / "config.json").write_text("[" * 100_000)


def larger_than_its_weights(source: Path, outside: Path) -> None:
    change(source / "config.json", intermediate_size=2**40)


def many_layers(source: Path, outside: Path) -> None:
    change(source / "config.json", num_hidden_layers=2**40)


def a_weight_less(source: Path, outside: Path) -> None:
    weights = load_file(source / "model.safetensors")
    del weights["model.layers.1.self_attn.q_proj.weight"]
    save_file(weights, source / "model.safetensors", {"format": "pt"})


def another_shape(source: Path, outside: Path) -> None:
    weights = load_file(source / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(7)
    save_file(weights, source / "model.safetensors", {"format": "pt"})


def template(text: str) -> Callable[[Path, Path], None]:
    def damage(source: Path, outside: Path) -> None:
        (source / "chat_template.jinja").write_text(text)

    return damage


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def template_file(name: str, content: str = "{{ messages }}") -> Callable[[Path, Path], None]:
    def damage(source: Path, outside: Path) -> None:
        (source / TEMPLATES).mkdir()
        (source / TEMPLATES / name).write_text(content)

    return damage


def template_link(source: Path, outside: Path) -> None:
    (outside / "secret").write_text("{{ messages }}")
    (source / TEMPLATES).mkdir()
    (source / TEMPLATES / "tool_use.jinja").symlink_to(outside / "secret")


def template_folder_link(source: Path, outside: Path) -> None:
    (outside / "tool_use.jinja").write_text("{{ messages }}")
    (source / TEMPLATES).symlink_to(outside)


def many_templates(source: Path, outside: Path) -> None:
    (source / TEMPLATES).mkdir()
    for number in range(17):
        (source / TEMPLATES / f"t{number}.jinja").write_text("")


def named(*names: str) -> Callable[[Path, Path], None]:
    def damage(source: Path, outside: Path) -> None:
        (source / "chat_template.jinja").unlink(missing_ok=True)
        templates = [{"name": name, "template": "{{ messages }}"} for name in names]
        change(source / "tokenizer_config.json", chat_template=templates)

    return damage


def an_adapter(source: Path, outside: Path) -> None:
    (source / "config.json").unlink()
    (source / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(outside), "peft_type": "LORA"})
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (link_out, "model.safetensors .*outside"),
        (index_out, "model.safetensors.index.json .*'../outside/model.safetensors'"),
        (index_absolute, "model.safetensors.index.json .*/outside/model.safetensors'"),
        (pipe, "generation_config.json"),
        (huge_text, "special_tokens_map.json"),
        (huge_header, "header too large"),
        (header(lambda tensors: None, keep=100), "config.json"),
        (header(norms_overlap), "offset"),
        (header(lambda tensors: tensors["model.norm.weight"].update(dtype="I64")), "type"),
        (header(lambda tensors: tensors["model.norm.weight"].update(dtype="EVIL")), "header"),
        (
            header(lambda tensors: tensors["model.norm.weight"].update(shape=[2**40] * 2)),
            "overflow",
        ),
        (deep_header, "recursion"),
        (deep_tokenizer, "tokenizer.json"),
        (tokenizer(lambda content: content.update(model=None)), "model"),
        (tokenizer(lambda content: content["model"]["vocab"].update(zz=2**31)), "'zz'"),
        (no_json, "config.json"),
        (larger_than_its_weights, "config.json"),
        (many_layers, "num_hidden_layers"),
        (a_weight_less, "q_proj"),
        (another_shape, "model.norm.weight .*7,.*32,"),
        (an_adapter, "adapter"),
        (template("{% if messages[0].role == 'system' %}" + LOOP + "{% endif %}"), "chat template"),
        *(
            pytest.param(template(text), "chat template", marks=pytest.mark.full)
            for text in (
                LOOP,
                "{% if add_generation_prompt %}" + LOOP + "{% endif %}",
                "{{ 9 ** (9 ** 9) }}",
            )
        ),
        (template("{% for message in %}"), "chat template"),
        (template_file("tool use\n.jinja"), "chat template with the name 'tool use"),
        (template_file("tool_use.jinja", "x" * (1024**2 + 1)), "1,048,577 bytes"),
        (template_file("tool_use.jinja", "{% for message in %}"), "chat template"),
        (template_link, "tool_use.jinja .*outside"),
        (template_folder_link, "tool_use.jinja .*outside"),
        (many_templates, "17 named chat templates"),
        (named("default", "../../tool_use"), "chat template with the name '../../tool_use'"),
        (named("default", *map(str, range(16))), "17 named chat templates"),
        (named("tool_use"), "none is named default"),
        (template("{{ raise_exception('I chat with nobody') }}"), "I chat with nobody"),
    ],
)
def test_a_damaged_source_or_one_with_outside_links_is_refused(
    store: Artifacts,
    source: Path,
    tmp_path: Path,
    damage: Callable[[Path, Path], None],
    message: str,
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    damage(source, outside)
    with pytest.raises(ImportRefused, match=message):
        import_model(str(source), "tiny", store)
    assert store.list("models") == []


def gguf_string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


LLAMA = gguf_string("general.architecture") + struct.pack("<I", 8) + gguf_string("llama")
TENSOR = gguf_string("t")


@pytest.mark.parametrize(
    ("tensors", "entries", "content"),
    [
        pytest.param(2**60, 2**60, b"", id="counts"),
        pytest.param(0, 1, struct.pack("<Q", 2**62), id="string"),
        pytest.param(0, 1, gguf_string("a") + struct.pack("<IIQ", 9, 0, 2**61), id="array"),
        pytest.param(
            0,
            1,
            gguf_string("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50_000,
            id="nested arrays",
        ),
        pytest.param(0, 1, gguf_string("a") + struct.pack("<I", 99), id="type"),
        pytest.param(1, 1, LLAMA + TENSOR + struct.pack("<I", 2**31), id="dimensions"),
        pytest.param(
            1,
            1,
            LLAMA + TENSOR + struct.pack("<IQQIQ", 2, 2**31, 2**31, 0, 2**50),
            id="tensor beyond the file",
        ),
        pytest.param(
            0,
            2,
            LLAMA + gguf_string("general.alignment") + struct.pack("<II", 4, 0),
            id="alignment",
        ),
    ],
)
def test_a_malicious_gguf_file_is_refused(
    store: Artifacts, tmp_path: Path, tensors: int, entries: int, content: bytes
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + content)
    with pytest.raises(ImportRefused):
        import_model(str(path), "tiny", store)
    assert store.list("models") == []


def test_a_tokenizer_s_configuration_names_no_files(
    store: Artifacts, source: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.json"
    shutil.copy(source / "tokenizer.json", secret)
    change(
        source / "tokenizer_config.json",
        tokenizer_file=str(secret),
        vocab_file=str(secret),
        fast_tokenizer_files=["../tokenizer.4.0.0.json"],
    )
    imported = import_model(str(source), "tiny", store)
    assert str(secret) not in store.get(f"{imported.ref}/tokenizer_config.json").decode()


def test_a_link_within_the_directory_is_followed(store: Artifacts, source: Path) -> None:
    (source / "blobs").mkdir()
    shutil.move(source / "model.safetensors", source / "blobs" / "weights")
    (source / "model.safetensors").symlink_to("blobs/weights")
    assert import_model(str(source), "tiny", store).name == "tiny"
