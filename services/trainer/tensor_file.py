"""A safetensors file in memory. One buffer is copied, hashed and written for all tensors.

A thread that stores it rarely holds the GIL, because there is no work per tensor. Format:
https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
}


@dataclass(frozen=True)
class TensorFile:
    """A copy of tensors on the CPU, with their header."""

    tensors: dict[str, Tensor]  # views into the content
    metadata: dict[str, str]
    described: str  # names, dtypes, shapes and offsets, as JSON
    content: Tensor  # uint8

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> TensorFile:
        """Copy the tensors. Equal tensors and metadata result in equal bytes."""
        # Widest dtype first, so that all are aligned, as in the safetensors library.
        names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
        content = torch.empty(sum(tensor.nbytes for tensor in tensors.values()), dtype=torch.uint8)
        views: dict[str, Tensor] = {}
        described, end = {}, 0
        for name in names:
            tensor, start = tensors[name], end
            end = start + tensor.nbytes
            views[name] = content[start:end].view(tensor.dtype).view(tensor.shape)
            described[name] = {
                "dtype": DTYPES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [start, end],
            }
        packed = cls(views, metadata, _json(described), content)
        return packed.overwritten(tensors, metadata)

    def overwritten(self, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> TensorFile:
        """Copy the current values of the same tensors into this copy's memory."""
        for name, view in self.tensors.items():
            view.copy_(tensors[name].detach())
        return replace(self, metadata=metadata)

    @classmethod
    def read(cls, path: Path) -> TensorFile:
        """Read a file. Raise OSError if that fails, and SafetensorError if the file is invalid."""
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls.of(tensors, file.metadata() or {})

    @cached_property
    def header(self) -> bytes:
        own = f'{{"__metadata__":{_json(self.metadata)}'
        text = own + (f",{self.described[1:]}" if self.tensors else "}")
        padding = " " * (-len(text.encode()) % 8)
        encoded = (text + padding).encode()
        return struct.pack("<Q", len(encoded)) + encoded

    @cached_property
    def sha256(self) -> str:
        """SHA-256 hash of the file that `write` writes."""
        digest = hashlib.sha256(self.header)
        digest.update(self.content.numpy().data)
        return digest.hexdigest()

    def write(self, path: Path) -> None:
        """Write the file. Raise OSError if that fails."""
        with path.open("wb") as file:
            file.write(self.header)
            file.write(self.content.numpy().data)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
