"""The two graphs of an encoder-decoder Transformer, computed the way that runs fastest on onnxruntime.

The mathematics is `headwaiter_export.transformer`; the parity gate holds these modules to it. What differs is
the order of work: one matrix product for queries, keys and values; the factor 1/sqrt(d_k) inside the query
weights; masks as one additive bias for all layers; tokens as rows of a matrix, so that a linear layer is one
`Gemm` with its bias. The encoder takes the tokens of all texts end to end, each attending to its own text's only, so
that no token is ever padding. A step runs a handful of times per text, and each small operator costs its launch.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from headwaiter_export.generation.cache import LOWEST, Cache
from headwaiter_export.generation.packing import attend
from headwaiter_export.transformer import MultiHeadAttention, Transformer
from headwaiter_export.transformer.incremental import decoder_layers
from headwaiter_export.transformer.layers import EncoderLayer


class EncoderGraph(nn.Module):
    """Source tokens to the keys and values of every decoder layer's cross-attention."""

    def __init__(self, model: Transformer) -> None:
        """Read the weights of `model`."""
        super().__init__()
        self.model = model
        self.layers = [cast("EncoderLayer", layer) for layer in model.encoder.layers]
        self.qkv = nn.ModuleList(_qkv(layer.self_attention) for layer in self.layers)
        cross = [layer.cross_attention for layer in decoder_layers(model)]
        self.cross = _stacked(*(p for each in cross for p in (each.key_projection, each.value_projection)))

    def forward(self, input_ids: Tensor, position_ids: Tensor, segment: Tensor) -> tuple[Tensor, ...]:
        """Run the encoder.

        Args:
            input_ids: `(tokens,)`, those of all texts end to end.
            position_ids: `(tokens,)`, from 0 in each text.
            segment: `(tokens,)`, number of the text.

        Returns:
            Per decoder layer keys and values, `(tokens, heads, head_dim)`.
        """
        config = self.model.config
        heads, d_model = config.num_heads, config.d_model
        bias = torch.where(segment.unsqueeze(1) == segment, 0.0, LOWEST)  # (tokens, tokens)
        x = self.model.embedding(input_ids) + functional.embedding(position_ids, self.model.positional.table)
        for layer, qkv in zip(self.layers, self.qkv, strict=True):
            projected = qkv(layer.self_attention_residual.before(x))
            split = projected.reshape(-1, 3 * heads, config.d_k).transpose(0, 1)
            query, key, value = split.split(heads, 0)  # each (heads, tokens, head_dim)
            merged = attend(query @ key.transpose(-2, -1) + bias, value).transpose(0, 1).reshape(-1, d_model)
            x = layer.self_attention_residual.after(x, layer.self_attention.output_projection(merged))
            x = layer.feed_forward_residual.after(x, layer.feed_forward(layer.feed_forward_residual.before(x)))
        projected = self.cross(self.model.encoder.final_norm(x))
        return tuple(projected.reshape(-1, 2 * config.num_decoder_layers * heads, config.d_k).split(heads, 1))


class DecoderGraph(nn.Module):
    """Tokens of each row, at its own place, to the logits of the next."""

    def __init__(self, model: Transformer) -> None:
        """Read the weights of `model`."""
        super().__init__()
        self.model = model
        self.layers = decoder_layers(model)
        self.qkv = nn.ModuleList(_qkv(layer.self_attention) for layer in self.layers)
        self.cross_query = nn.ModuleList(_scaled_query(layer.cross_attention) for layer in self.layers)

    def forward(
        self, input_ids: Tensor, past_lengths: Tensor, source_lengths: Tensor, layers: list[tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """Run the decoder.

        Args:
            input_ids: `(rows, tokens)`: what comes behind the tokens that a row has in the cache; the first is
                `bos_id`.
            past_lengths: `(rows,)`: how many those are.
            source_lengths: `(rows,)`, each at least 1.
            layers: Of each layer keys and values of what was generated, `(rows, heads, capacity, head_dim)`, and of the
                source, `(rows, heads, source, head_dim)`. What lies beyond a row's own may be anything finite.

        Returns:
            Logits of what follows each row's last token, `(rows, vocab)`; what that token attends to in the source,
            `(rows, layers, heads, source)`; then the keys and values of what was generated, with the new columns.
        """
        config = self.model.config
        heads, d_k, d_model = config.num_heads, config.d_k, config.d_model
        rows, tokens = input_ids.shape
        source = layers[0][2].size(2)
        real = torch.arange(source) < source_lengths.unsqueeze(1)
        bias = torch.where(real, 0.0, LOWEST)[:, None, None, :]  # (rows, 1, 1, source)
        positions = past_lengths.unsqueeze(1) + torch.arange(tokens)
        cache = Cache.before([(key, value) for key, value, *_ in layers], past_lengths, tokens)
        x = self.model.embedding(input_ids) + functional.embedding(positions, self.model.positional.table)
        x = x.reshape(-1, d_model)  # (rows * tokens, d_model)
        seen: list[Tensor] = []
        for at, (layer, qkv, cross_query) in enumerate(zip(self.layers, self.qkv, self.cross_query, strict=True)):
            projected = qkv(layer.self_attention_residual.before(x)).reshape(rows, tokens, 3 * d_model)
            # The factor of the scores is in the weights already.
            attended = cache.attend(at, [projected], heads, scale=1.0).reshape(-1, d_model)
            x = layer.self_attention_residual.after(x, layer.self_attention.output_projection(attended))
            query = cross_query(layer.cross_attention_residual.before(x)).reshape(rows, tokens, heads, d_k)
            keys, values = layers[at][2:]
            weights = torch.softmax(query.transpose(1, 2) @ keys.transpose(-2, -1) + bias, -1)
            seen.append(weights)
            attended = (weights @ values).transpose(1, 2).reshape(-1, d_model)
            x = layer.cross_attention_residual.after(x, layer.cross_attention.output_projection(attended))
            x = layer.feed_forward_residual.after(x, layer.feed_forward(layer.feed_forward_residual.before(x)))
        last = x.reshape(rows, tokens, d_model)[:, -1]
        looked = torch.cat(seen, 1)[:, :, -1].reshape(rows, len(layers), heads, source)
        return (self.model.generator(self.model.decoder.final_norm(last)), looked, *cache.outputs())


def _qkv(attention: MultiHeadAttention) -> nn.Linear:
    return _stacked(_scaled_query(attention), attention.key_projection, attention.value_projection)


def _scaled_query(attention: MultiHeadAttention) -> nn.Linear:
    scaled = _stacked(attention.query_projection)
    with torch.no_grad():
        for parameter in scaled.parameters():
            parameter.div_(math.sqrt(attention.d_k))
    return scaled


def _stacked(*projections: nn.Linear) -> nn.Linear:
    """One linear layer whose output is that of `projections` end to end; a copy."""
    width = sum(each.out_features for each in projections)
    stacked = nn.Linear(projections[0].in_features, width)
    with torch.no_grad():
        stacked.weight.copy_(torch.cat([each.weight for each in projections]))
        stacked.bias.copy_(torch.cat([each.bias for each in projections]))
    return stacked
