"""Keys and values of what the running rows have read, in one tensor for each layer."""

from __future__ import annotations

from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

LENGTH_MULTIPLE = 128
"""Tokens by which rows grow: what is there already is copied each time."""


class KeysValues:
    """A slot for each running row, all of one length; slots and length grow as they are needed.

    A layer's keys are (slots, kv heads, length, head size), so that what one head looks at lies
    together. Layers are made when they are first written, because only then is their shape known.
    """

    def __init__(self) -> None:
        self.slots = 0
        self.length = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def resize(self, slots: int, length: int) -> None:
        """Have room for so many rows of so many tokens, and no more; what fits stays."""
        if (slots, length) == (self.slots, self.length):
            return
        for layer, (keys, values) in self._layers.items():
            self._layers[layer] = (_resized(keys, slots, length), _resized(values, slots, length))
        self.slots, self.length = slots, length

    def clear(self) -> None:
        """Give the memory back; no row may be running."""
        self._layers.clear()
        self.slots = self.length = 0

    def write(
        self, layer: int, keys: Tensor, values: Tensor, slots: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store tokens' keys and values, (tokens, kv heads, head size), each at its slot and place.

        Returns the whole layer's.
        """
        if layer not in self._layers:
            self._layers[layer] = (self._empty(keys), self._empty(values))
        all_keys, all_values = self._layers[layer]
        all_keys[slots, :, places] = keys
        all_values[slots, :, places] = values
        return all_keys, all_values

    def move(self, source: int, target: int, tokens: int) -> None:
        """Put the first tokens of one slot into another."""
        for pair in self._layers.values():
            for each in pair:
                each[target, :, :tokens] = each[source, :, :tokens]

    def wipe(self, slot: int, tokens: int) -> None:
        """Forget the first tokens of a slot.

        The next row there is not to read, not even through its mask, what is no number.
        """
        for pair in self._layers.values():
            for each in pair:
                each[slot, :, :tokens] = 0

    def _empty(self, tokens: Tensor) -> Tensor:
        # Zeros, because what a mask hides is still multiplied, by zero: it must be a number.
        return tokens.new_zeros(self.slots, tokens.shape[1], self.length, tokens.shape[2])


def grown(length: int, context: int) -> int:
    """Tokens to reserve for a row of a length: a quarter more, so that it seldom has to grow."""
    wanted = length + length // 4
    return max(length, min(context, -(-wanted // LENGTH_MULTIPLE) * LENGTH_MULTIPLE))


def bytes_per_token(base: PreTrainedModel) -> int:
    """Memory that one token's keys and values take, over all layers."""
    config = base.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * size * base.dtype.itemsize


def _resized(tensor: Tensor, slots: int, length: int) -> Tensor:
    new = tensor.new_zeros(slots, tensor.shape[1], length, tensor.shape[3])
    kept = tensor[:slots, :, :length]
    new[: kept.shape[0], :, : kept.shape[2]] = kept
    return new
