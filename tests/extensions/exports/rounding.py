"""The weights of a model, rounded as a GGUF file stores them, by the package `gguf` alone."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize


def rounded(model: Any, kind: GGMLQuantizationType) -> Any:
    """Return a copy of a model in float32, whose matrices were converted to `kind` and back.

    Vectors keep their values, and matrices without whole blocks become float16.
    """
    copy = deepcopy(model).float()
    block, _ = GGML_QUANT_SIZES[kind]
    with torch.no_grad():
        for parameter in copy.parameters():
            if parameter.dim() < 2:
                continue
            each = kind if parameter.shape[-1] % block == 0 else GGMLQuantizationType.F16
            stored = quantize(parameter.numpy(), each)
            parameter.copy_(torch.from_numpy(dequantize(stored, each).astype("float32")))
    return copy
