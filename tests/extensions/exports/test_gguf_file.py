"""A GGUF file, read again by transformers, answers as the merged model."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copyfile, copytree
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from extensions.exports.documents import copy_tokenizer
from extensions.exports.gguf_support import NoGguf, require_gguf, require_gguf_of
from extensions.exports.worker.gguf_file import CannotConvert, write_gguf
from extensions.exports.worker.merged_weights import MergedWeights
from extensions.exports.worker.safetensors_files import write_safetensors
from infrastructure.chat.chat_template import CHAT_TEMPLATE as CHAT_TEMPLATE_FILE
from infrastructure.chat.chat_template import FALLBACK_CHAT_TEMPLATE
from infrastructure.chat.template_rendering import TOOL_TEMPLATE_FILE
from tests.builders.tiny_model import CHAT_TEMPLATE, CORPUS, make_tiny_tokenizer
from tests.extensions.exports.conftest import make_adapter, widened
from tests.extensions.exports.rounding import rounded

F16, Q8_0 = GGMLQuantizationType.F16, GGMLQuantizationType.Q8_0
FACTS = {"general.name": "ft:tiny:0b0f8f5c3a4e", "ecolink.job_id": "0b0f8f5c"}

SIZES: dict[str, Any] = {
    "vocab_size": 380,  # more than the tokenizer has
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHORTER = {"rope_type": "default", "rope_theta": 20_000.0}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama-untied": LlamaConfig(
        **SIZES,
        tie_word_embeddings=False,
        rope_parameters={"rope_theta": 20_000.0, "rope_type": "default"},
    ),
    "mistral": MistralConfig(**SIZES, head_dim=16, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, head_dim=128),
    "gemma2": Gemma2Config(**SIZES, head_dim=16, sliding_window=32),
    "phi3": Phi3Config(**SIZES),
}
TARGETS = {"phi3": ["qkv_proj", "down_proj"]}

ROUNDING = {F16: 1e-2, Q8_0: 0.2}
"""Largest difference of logits because of rounded weights. Logits have a range of about 5."""

ATOL = 1e-4
"""Largest difference of logits that have the same weights, in another order of computation."""


def make_base(directory: Path, config: PretrainedConfig) -> Path:
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    make_tiny_tokenizer().save_pretrained(directory)
    return widened(directory, torch.float32)


@pytest.mark.parametrize("name", CONFIGS)
def test_answers_as_the_merged_model(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    base = make_base(tmp_path / "base", CONFIGS[name])
    options: dict[str, Any] = {"target_modules": TARGETS[name]} if name in TARGETS else {}
    weights = MergedWeights(base, make_adapter(base, tmp_path / "adapter", **options))
    merged = load_merged(weights, base, tmp_path / "merged")
    text = "<|im_start|>user\nWhat is 2 and 3?<|im_end|>\n<|im_start|>assistant\n"
    tokens = AutoTokenizer.from_pretrained(base)(text, return_tensors="pt").input_ids
    chosen = merged.generate(tokens, max_new_tokens=24, do_sample=False, eos_token_id=None)
    with torch.no_grad():
        expected = merged(chosen).logits
    best, second = expected.topk(2).values.unbind(-1)
    for kind in (F16, Q8_0):
        with subtests.test(kind.name), torch.no_grad():
            file = written(weights, base, tmp_path, kind)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            assert tokenizer(text).input_ids == tokens[0].tolist()
            found = load_gguf(file)(chosen).logits
            exact = rounded(merged, kind)(chosen).logits
            difference, error = (float((found - each).abs().max()) for each in (expected, exact))
            with capsys.disabled():
                print(
                    f"\n{name} {kind.name}: logits differ by {difference:.2g} from the merged "
                    f"model, and by {error:.2g} from the one with rounded weights",
                    end="",
                )
            assert error < ATOL
            assert difference < ROUNDING[kind]
            clear = best - second > 2 * difference  # otherwise, rounding may choose the other one
            assert clear.float().mean() > (0.6 if kind is F16 else 0.1)
            assert torch.equal(found.argmax(-1)[clear], expected.argmax(-1)[clear])


def test_vectors_stay_in_float32_and_matrices_are_quantized_in_blocks(
    tiny_base: Path, tmp_path: Path
) -> None:
    """As llama.cpp's converter does for Q8_0, also for the embeddings."""
    weights = MergedWeights(tiny_base, make_adapter(tiny_base, tmp_path / "adapter"))
    reader = GGUFReader(written(weights, tiny_base, tmp_path, Q8_0))
    for each in reader.tensors:
        assert each.tensor_type.name == ("F32" if len(each.shape) == 1 else "Q8_0"), each.name
    (embeddings,) = (each for each in reader.tensors if each.name == "token_embd.weight")
    blocks = weights.tensor("model.embed_tokens.weight").float().unflatten(-1, (-1, 32))
    found = torch.from_numpy(dequantize(embeddings.data, Q8_0)).unflatten(-1, (-1, 32))
    step = blocks.abs().amax(-1, keepdim=True) / 127
    assert ((found - blocks).abs() <= step * (0.5 + 127 * 2**-11)).all()  # the step is a float16


def test_keeps_the_tokens_of_sentencepiece(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", CONFIGS["mistral"])
    own = make_sentencepiece(base)
    weights = MergedWeights(base, make_adapter(base, tmp_path / "adapter"))
    file = written(weights, base, tmp_path, F16)
    fields = GGUFReader(file).fields
    assert fields["tokenizer.ggml.model"].contents() == "llama"
    assert fields["tokenizer.ggml.add_bos_token"].contents() is True
    assert fields["tokenizer.ggml.add_space_prefix"].contents() is True
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in ("The capital of France", "quick brown fox jumps", "über 12", "a  b"):
        assert tokenizer(text).input_ids == own(text).input_ids


def test_the_same_input_gives_the_same_bytes(tiny_base: Path, tmp_path: Path) -> None:
    weights = MergedWeights(tiny_base, make_adapter(tiny_base, tmp_path / "adapter"))
    first = written(weights, tiny_base, tmp_path, Q8_0).read_bytes()
    assert written(weights, tiny_base, tmp_path, Q8_0).read_bytes() == first


def test_has_the_origin_template_and_special_tokens(tiny_base: Path, tmp_path: Path) -> None:
    weights = MergedWeights(tiny_base, make_adapter(tiny_base, tmp_path / "adapter"))
    fields = GGUFReader(written(weights, tiny_base, tmp_path, F16)).fields
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    assert {key: fields[key].contents() for key in FACTS} == FACTS
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False
    assert "tokenizer.ggml.eot_token_id" not in fields


def test_the_end_of_the_template_is_the_end_of_a_turn(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", CONFIGS["llama"])
    template = CHAT_TEMPLATE.replace("<|im_end|>", "<|endoftext|>")
    make_tiny_tokenizer(template).save_pretrained(base)
    weights = MergedWeights(base, make_adapter(base, tmp_path / "adapter"))
    fields = GGUFReader(written(weights, base, tmp_path, Q8_0)).fields
    end = AutoTokenizer.from_pretrained(base).convert_tokens_to_ids("<|endoftext|>")
    assert fields["tokenizer.ggml.eot_token_id"].contents() == end


def test_long_contexts_of_llama_3_have_their_frequencies(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", LlamaConfig(**SIZES, rope_parameters=LLAMA3))
    weights = MergedWeights(base, make_adapter(base, tmp_path / "adapter"))
    reader = GGUFReader(written(weights, base, tmp_path, F16))
    (found,) = [each.data for each in reader.tensors if each.name == "rope_freqs.weight"]
    model = AutoModelForCausalLM.from_pretrained(base)
    plain = 1 / (500_000.0 ** (torch.arange(0, 16, 2) / 16))
    torch.testing.assert_close(plain / torch.tensor(found), model.model.rotary_emb.inv_freq)


def test_refuses_values_beyond_the_range_of_its_types(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", CONFIGS["llama"])
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3, 5] = 1e8
    model.save_pretrained(base)
    weights = MergedWeights(base, make_adapter(base, tmp_path / "adapter"))
    for kind in (F16, Q8_0):
        with pytest.raises(CannotConvert, match="up_proj"):
            written(weights, base, tmp_path, kind)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "yarn"),
        ({"sliding_window": 64}, "sliding window"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantized"),
    ],
)
def test_unsupported_bases_are_refused(
    change: dict[str, Any], reason: str, tiny_base: Path
) -> None:
    config = json.loads((tiny_base / "config.json").read_text())
    tokenizer = (tiny_base / "tokenizer.json").read_bytes()
    require_gguf_of(json.dumps(config).encode(), tokenizer)
    with pytest.raises(NoGguf, match=reason):
        require_gguf_of(json.dumps(config | change).encode(), tokenizer)


def written(weights: MergedWeights, base: Path, folder: Path, kind: GGMLQuantizationType) -> Path:
    file = folder / f"model-{kind.name}.gguf"
    write_gguf(weights, base, file, kind, FACTS, lambda _: None)
    return file


def load_merged(weights: MergedWeights, base: Path, directory: Path) -> Any:
    directory.mkdir()
    write_safetensors(weights, directory, lambda _: None)
    copyfile(base / "config.json", directory / "config.json")
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def load_gguf(file: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )


def make_sentencepiece(directory: Path) -> Any:
    """Replace the tokenizer of a base model by one of Llama 2's kind."""
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Replace("▁", " ")])
    special = ["<unk>", "<s>", "</s>"]
    bytes = [f"<0x{each:02X}>" for each in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special + bytes, show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    saved = json.loads(core.to_str())
    saved["added_tokens"] = [each for each in saved["added_tokens"] if each["content"] in special]
    core = Tokenizer.from_str(json.dumps(saved))
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(directory)
    (directory / "chat_template.jinja").unlink(missing_ok=True)
    return tokenizer


GEMMA_9B = {"num_hidden_layers": 42, "hidden_size": 3584, "num_attention_heads": 16}
GEMMA_27B = {"num_hidden_layers": 46, "hidden_size": 4608, "num_attention_heads": 32}


@pytest.mark.parametrize(
    ("shape", "head", "scalar", "expected"),
    [
        (GEMMA_9B, 256, 256, None),
        (GEMMA_9B, 256, 224, 256),
        (GEMMA_27B, 128, 144, None),
        (GEMMA_27B, 128, 128, 144),
    ],
)
def test_gemma_needs_the_attention_scale_of_llama_cpp(
    shape: dict[str, int], head: int, scalar: int, expected: int | None, tiny_base: Path
) -> None:
    config = {"architectures": ["Gemma2ForCausalLM"], "head_dim": head, **shape}
    config |= {"query_pre_attn_scalar": scalar}
    tokenizer = json.loads((tiny_base / "tokenizer.json").read_text())
    if expected is None:
        require_gguf(config, tokenizer)
        return
    with pytest.raises(NoGguf, match=f"query_pre_attn_scalar is {scalar}.*with {expected}"):
        require_gguf(config, tokenizer)


@pytest.mark.parametrize("stored", ["{{ messages }}", None])
def test_a_base_without_template_gets_that_of_the_training(
    stored: str | None, tmp_path: Path
) -> None:
    """A checkpoint of version 0.1 was trained with the fallback, but does not contain it."""
    base, adapter, copied = (tmp_path / name for name in ("base", "adapter", "copied"))
    make_tiny_tokenizer(None).save_pretrained(base)
    adapter.mkdir()
    copied.mkdir()
    if stored is not None:
        (adapter / CHAT_TEMPLATE_FILE).write_text(stored)
    copy_tokenizer(base, adapter, copied)
    template = AutoTokenizer.from_pretrained(copied).chat_template
    assert template == (stored or FALLBACK_CHAT_TEMPLATE)


def test_has_the_template_for_tools(tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    copytree(tiny_base, base)
    (base / TOOL_TEMPLATE_FILE).parent.mkdir()
    (base / TOOL_TEMPLATE_FILE).write_text("{{ tools }}")
    copied = tmp_path / "copied"
    copied.mkdir()
    copy_tokenizer(base, tmp_path / "adapter", copied)
    named = AutoTokenizer.from_pretrained(copied).chat_template
    assert named["tool_use"] == "{{ tools }}"
    weights = MergedWeights(base, make_adapter(base, tmp_path / "adapter"))
    fields = GGUFReader(written(weights, copied, tmp_path, F16)).fields
    assert fields["tokenizer.chat_template"].contents() == named["default"]
    assert fields["tokenizer.chat_template.tool_use"].contents() == "{{ tools }}"
