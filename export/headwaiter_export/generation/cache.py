"""A key/value cache that a graph writes in place.

Every row of a run stands at its own place: row r has `past_lengths[r]` tokens in the cache, and reads those that come
now behind them. Attention is onnxruntime's operator for that, `GroupQueryAttention`, which writes the new keys and
values into the cache and attends to what the row has and no more. So nothing is copied that was computed before, and
no row is padded to the length of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import torch
from torch import Tensor

# What must not count becomes this: the lowest finite number and not -inf, so that a sum with it stays a number.
LOWEST: Final = torch.finfo(torch.float32).min

_FLOAT: Final = 1  # ONNX's number for fp32


class UnsupportedAttentionError(ValueError):
    """The model's attention is not what the operator computes."""


@dataclass
class Cache:
    """The cache while the model is traced.

    Attributes:
        past: Keys and values of each layer, `(rows, kv_heads, capacity, head_dim)`.
        last: Index of each row's last token, in the cache as it will be, `(rows,)`, int32.
        total: The largest number of tokens of any row, those that come now among them, `()`, int32.
        written: The same as `past`, of the layers that have run.
    """

    past: Sequence[tuple[Tensor, Tensor]]
    last: Tensor
    total: Tensor
    written: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def before(cls, past: Sequence[tuple[Tensor, Tensor]], past_lengths: Tensor, tokens: int) -> Self:
        """The cache of rows that are about to read.

        Args:
            past: See the class.
            past_lengths: Tokens that each row has in the cache, `(rows,)`, int64.
            tokens: Tokens that come now, the same number in every row.
        """
        last = past_lengths + (tokens - 1)
        return cls(past, last.to(torch.int32), (last.max() + 1).to(torch.int32))

    def attend(
        self,
        layer: int,
        projected: Sequence[Tensor],
        num_heads: int,
        bias: Tensor | None = None,
        **attributes: float,
    ) -> Tensor:
        """Write the new keys and values of a layer, and attend.

        Args:
            layer: Its number.
            projected: Queries, keys and values of the new tokens, `(rows, tokens, heads * head_dim)` each; or one
                tensor that holds all three, side by side.
            num_heads: Heads of the queries.
            bias: Added to the scores, `(rows, num_heads, tokens, capacity)`.
            **attributes: Further ones of the operator.

        Returns:
            `(rows, tokens, num_heads * head_dim)`.
        """
        past_key, past_value = self.past[layer]
        queries = projected[0]
        inputs: list[Tensor | None] = [*projected, *[None] * (3 - len(projected)), past_key, past_value, self.last]
        if bias is None:
            inputs.append(self.total)
        else:
            # The bias has a column for each place of the cache, and the operator wants one for each token.
            capacity = torch.tensor(past_key.size(2), dtype=torch.int32)
            inputs += [capacity, None, None, None, bias]
        attended, *written = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            inputs,
            {"num_heads": num_heads, "kv_num_heads": past_key.shape[1], **attributes},
            dtypes=(_FLOAT, _FLOAT, _FLOAT),
            shapes=((*queries.shape[:2], num_heads * past_key.shape[3]), past_key.shape, past_value.shape),
            version=1,
        )
        self.written[layer] = (written[0], written[1])
        return attended

    def outputs(self) -> list[Tensor]:
        """What the layers have written, in the order of the graph's outputs.

        Raises:
            UnsupportedAttentionError: A layer has written nothing.
        """
        for layer in range(len(self.past)):
            if layer not in self.written:
                raise UnsupportedAttentionError(f"layer {layer} does not attend as transformers' models do")
        return [tensor for layer in range(len(self.past)) for tensor in self.written[layer]]
