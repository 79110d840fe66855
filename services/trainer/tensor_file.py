"""Tensors one after the other, as a safetensors file has them: copied, hashed, written as one.

Storing them needs no work for each tensor, so that a thread that does it hardly needs the
interpreter's lock, and the hash of the file is that of the live tensors.
Format: https://github.com/huggingface/safetensors.
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
class Packed:
    """A copy of tensors on the CPU, and what is said of them."""

    tensors: dict[str, Tensor]  # views of the content
    metadata: dict[str, str]
    described: str  # names, dtypes, shapes and places, as JSON
    content: Tensor  # uint8

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> Packed:
        """A copy of these tensors; equal tensors and metadata give equal bytes."""
        # The widest first, so that all are aligned, as the library has them.
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
        return packed.taken_again(tensors, metadata)

    def taken_again(self, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> Packed:
        """A copy of the same tensors as they are now, in the memory of this one, which is lost."""
        for name, view in self.tensors.items():
            view.copy_(tensors[name].detach())
        return replace(self, metadata=metadata)

    @classmethod
    def read(cls, path: Path) -> Packed:
        """What a file holds; raises OSError, and SafetensorError for one that is no such file."""
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls.of(tensors, file.metadata() or {})

    @cached_property
    def header(self) -> bytes:
        """What is before the content in a file."""
        own = f'{{"__metadata__":{_json(self.metadata)}'
        text = own + (f",{self.described[1:]}" if self.tensors else "}")
        padding = " " * (-len(text.encode()) % 8)
        encoded = (text + padding).encode()
        return struct.pack("<Q", len(encoded)) + encoded

    @cached_property
    def sha256(self) -> str:
        """Of the file that `write` writes."""
        digest = hashlib.sha256(self.header)
        digest.update(self.content.numpy().data)
        return digest.hexdigest()

    def write(self, path: Path) -> None:
        """Write the file; raises OSError."""
        with path.open("wb") as file:
            file.write(self.header)
            file.write(self.content.numpy().data)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
