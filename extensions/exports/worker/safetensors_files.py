"""Merged weights as safetensors, in shards of limited size with an index."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.torch import save_file

from extensions.exports.worker.merged_weights import BASE_INDEX, MergedWeights

SHARD_BYTES = 1024**3
"""Largest size of a shard in memory and on disk, unless one tensor is larger."""

PATTERN = "model{suffix}.safetensors"


def write_safetensors(
    weights: MergedWeights,
    directory: Path,
    on_bytes: Callable[[int], object],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write all tensors, in the order of their names. Report the bytes of each tensor.

    Several shards have an index, as `save_pretrained` writes it.
    """
    shapes = weights.shapes()
    split = split_state_dict_into_shards_factory(
        {each.name: each for each in shapes},
        get_storage_size=lambda each: each.bytes,
        filename_pattern=PATTERN,
        max_shard_size=shard_bytes,
    )
    for file, names in split.filename_to_tensors.items():
        tensors = {}
        for name in names:
            tensors[name] = weights.tensor(name).contiguous()
            on_bytes(tensors[name].nbytes)
        save_file(tensors, directory / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True)
        (directory / BASE_INDEX).write_text(f"{text}\n")
