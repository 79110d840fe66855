"""Merged weights equal those of PEFT, bit for bit, in every shard size."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from extensions.exports.worker.merged_weights import CannotMerge, MergedWeights
from extensions.exports.worker.safetensors_files import write_safetensors
from tests.extensions.exports.conftest import make_adapter

PRESETS: dict[str, dict[str, Any]] = {
    "lora": {},
    "all-linear": {"target_modules": "all-linear"},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "ranks": {"rank_pattern": {"v_proj": 3}, "alpha_pattern": {"layers.1.self_attn.q_proj": 40}},
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_equals_merge_and_unload_bit_for_bit(
    preset: str, dtype: torch.dtype, tiny_base: Path, tmp_path: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_base).to(dtype)
    base.save_pretrained(tmp_path / "base")
    adapter = make_adapter(tiny_base, tmp_path / "adapter", **PRESETS[preset])
    written = exported(tmp_path / "base", adapter, tmp_path / "merged")

    merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    merged.save_pretrained(tmp_path / "expected")

    found, expected = load_file(written), load_file(tmp_path / "expected" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor), name


def test_computes_what_the_base_computes_with_the_adapter(tiny_base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tiny_base, tmp_path / "adapter")
    AutoModelForCausalLM.from_pretrained(tiny_base).float().save_pretrained(tmp_path / "base")
    exported(tmp_path / "base", adapter, tmp_path / "merged")
    copyfile(tiny_base / "config.json", tmp_path / "merged" / "config.json")
    tokens = torch.arange(3, 40)[None]
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    before = base(tokens).logits
    adapted = PeftModel.from_pretrained(base, str(adapter))(tokens).logits
    assert (adapted - before).abs().max() > 0.1
    torch.testing.assert_close(merged(tokens).logits, adapted, atol=1e-4, rtol=1e-4)


def test_shards_have_an_index_and_the_same_tensors(tiny_base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tiny_base, tmp_path / "adapter")
    whole = load_file(exported(tiny_base, adapter, tmp_path / "whole"))
    limit = 20_000
    exported(tiny_base, adapter, tmp_path / "shards", shard_bytes=limit)
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 2
    assert set(index["weight_map"].values()) == {each.name for each in files}
    parts = [load_file(each) for each in files]
    assert all(
        sum(each.nbytes for each in part.values()) <= limit or len(part) == 1 for part in parts
    )
    found = {name: tensor for part in parts for name, tensor in part.items()}
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_the_same_input_gives_the_same_bytes(tiny_base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tiny_base, tmp_path / "adapter")
    first = exported(tiny_base, adapter, tmp_path / "first")
    second = exported(tiny_base, adapter, tmp_path / "second")
    assert first.read_bytes() == second.read_bytes()


def test_reports_every_byte(tiny_base: Path, tmp_path: Path) -> None:
    weights = MergedWeights(tiny_base, make_adapter(tiny_base, tmp_path / "adapter"))
    (tmp_path / "merged").mkdir()
    done: list[int] = []
    write_safetensors(weights, tmp_path / "merged", done.append)
    assert sum(done) == sum(each.bytes for each in weights.shapes())


def test_refuses_an_adapter_of_another_base(tiny_base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tiny_base, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({k.replace("layers.1", "layers.7"): v for k, v in tensors.items()}, path)
    with pytest.raises(CannotMerge, match=r"layers\.7"):
        MergedWeights(tiny_base, adapter)


def test_refuses_weights_that_are_not_finite(tiny_base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tiny_base, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    save_file({k: v * float("nan") for k, v in load_file(path).items()}, path)
    with pytest.raises(CannotMerge, match="not finite"):
        exported(tiny_base, adapter, tmp_path / "merged")


def exported(base: Path, adapter: Path, directory: Path, **options: int) -> Path:
    """Write the merged weights. Return the file if there is only one."""
    directory.mkdir()
    write_safetensors(MergedWeights(base, adapter), directory, lambda _: None, **options)
    return directory / "model.safetensors"
