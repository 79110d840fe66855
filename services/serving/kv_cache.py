"""The KV cache: keys and values of all processed tokens of the rows, a tensor pair per layer."""

from __future__ import annotations

from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

LENGTH_MULTIPLE = 128
"""Multiple of tokens in which the length of rows grows. Every growth copies the rows."""


class KVCache:
    """A slot for each row. All slots have the same length. Their number and length grow as needed.

    The keys of a layer are (slots, kv heads, length, head size), so that the keys of one head are
    contiguous. A layer is allocated at its first write, when its shape is known.
    """

    def __init__(self) -> None:
        self.slots = 0
        self.length = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def resize(self, slots: int, length: int) -> None:
        """Set the number of slots and their length. Keep the content that fits."""
        if (slots, length) == (self.slots, self.length):
            return
        for layer, (keys, values) in self._layers.items():
            self._layers[layer] = (_resized(keys, slots, length), _resized(values, slots, length))
        self.slots, self.length = slots, length

    def clear(self) -> None:
        """Free the memory. Call this only if there are no rows."""
        self._layers.clear()
        self.slots = self.length = 0

    def write(
        self, layer: int, keys: Tensor, values: Tensor, slots: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values (tokens, kv heads, head size). Return those of the whole layer."""
        if layer not in self._layers:
            self._layers[layer] = (self._empty(keys), self._empty(values))
        all_keys, all_values = self._layers[layer]
        all_keys[slots, :, places] = keys
        all_values[slots, :, places] = values
        return all_keys, all_values

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` tokens of one slot to another."""
        for pair in self._layers.values():
            for each in pair:
                each[target, :, :tokens] = each[source, :, :tokens]

    def wipe(self, slot: int, tokens: int) -> None:
        """Zero the slot's first tokens. The next row could read NaN even through its mask."""
        for pair in self._layers.values():
            for each in pair:
                each[slot, :, :tokens] = 0

    def _empty(self, tokens: Tensor) -> Tensor:
        # Masked values are multiplied by zero, so they must be finite.
        return tokens.new_zeros(self.slots, tokens.shape[1], self.length, tokens.shape[2])


def reserved_length(length: int, context: int) -> int:
    """Return the length to reserve for a row: a quarter more than it needs now."""
    wanted = length + length // 4
    return max(length, min(context, -(-wanted // LENGTH_MULTIPLE) * LENGTH_MULTIPLE))


def bytes_per_token(base: PreTrainedModel) -> int:
    """Return the bytes that the keys and values of one token need in all layers."""
    config = base.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * size * base.dtype.itemsize


def _resized(tensor: Tensor, slots: int, length: int) -> Tensor:
    new = tensor.new_zeros(slots, tensor.shape[1], length, tensor.shape[3])
    kept = tensor[:slots, :, :length]
    new[: kept.shape[0], :, : kept.shape[2]] = kept
    return new
