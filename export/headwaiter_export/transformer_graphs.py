"""The two graphs of an encoder-decoder Transformer, computed the way that runs fastest on onnxruntime.

The mathematics is `headwaiter_export.transformer`; the parity gate holds these modules to it. What differs is
the order of work: one matrix product for queries, keys and values; the factor 1/sqrt(d_k) inside the query
weights; masks as one additive bias for all layers; tokens as rows of a matrix, so that a linear layer is one
`Gemm` with its bias. The encoder takes the tokens of all texts end to end, each attending to its own text's only, so
that no token is ever padding. A step runs a handful of times per text, and each small operator costs its launch.
"""

from __future__ import annotations

import math
from typing import Final, cast

import torch
from headwaiter_proto.v1 import bundle_pb2
from torch import Tensor, nn
from torch.nn import functional

from headwaiter_export import spec
from headwaiter_export.transformer import MultiHeadAttention, Transformer, TransformerConfig
from headwaiter_export.transformer.incremental import decoder_layers
from headwaiter_export.transformer.layers import EncoderLayer

# Added to scores that must not count. The lowest finite number and not -inf: no row can become a NaN.
_HIDDEN: Final = torch.finfo(torch.float32).min


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
        bias = torch.where(segment.unsqueeze(1) == segment, 0.0, _HIDDEN)  # (tokens, tokens)
        x = self.model.embedding(input_ids) + functional.embedding(position_ids, self.model.positional.table)
        for layer, qkv in zip(self.layers, self.qkv, strict=True):
            projected = qkv(layer.self_attention_residual.before(x))
            split = projected.reshape(-1, 3 * heads, config.d_k).transpose(0, 1)
            query, key, value = split.split(heads, 0)  # each (heads, tokens, head_dim)
            attended = torch.softmax(query @ key.transpose(-2, -1) + bias, -1) @ value
            merged = attended.transpose(0, 1).reshape(-1, d_model)
            x = layer.self_attention_residual.after(x, layer.self_attention.output_projection(merged))
            x = layer.feed_forward_residual.after(x, layer.feed_forward(layer.feed_forward_residual.before(x)))
        projected = self.cross(self.model.encoder.final_norm(x))
        return tuple(projected.reshape(-1, 2 * config.num_decoder_layers * heads, config.d_k).split(heads, 1))


class DecoderStepGraph(nn.Module):
    """One token of every row to the logits of the next, with the key/value cache."""

    def __init__(self, model: Transformer) -> None:
        """Read the weights of `model`."""
        super().__init__()
        self.model = model
        self.layers = decoder_layers(model)
        self.qkv = nn.ModuleList(_qkv(layer.self_attention) for layer in self.layers)
        self.cross_query = nn.ModuleList(_scaled_query(layer.cross_attention) for layer in self.layers)

    def forward(
        self, token: Tensor, position: Tensor, source_lengths: Tensor, caches: list[tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """Run one step.

        Args:
            token: `(batch,)`.
            position: `(batch,)`; `bos_id` is at 0. Rows may differ.
            source_lengths: `(batch,)`, each at least 1.
            caches: Per layer `self_key`, `self_value` `(batch, heads, capacity, head_dim)`, of which columns
                `[0, position[r])` of row r count, and `cross_key`, `cross_value`
                `(batch, heads, source, head_dim)`. What does not count may be anything finite.

        Returns:
            Logits `(batch, vocab)`, then per layer the new key and value `(batch, heads, head_dim)`, for the
            caller to write into column `position[r]`.
        """
        config = self.model.config
        heads, d_k, d_model = config.num_heads, config.d_k, config.d_model
        capacity, source = caches[0][0].size(2), caches[0][2].size(2)
        # The new token's score stands first, past column c at c + 1: row r may see all up to position[r].
        visible = torch.arange(capacity + 1) <= position.unsqueeze(1)
        self_bias = torch.where(visible, 0.0, _HIDDEN)[:, None, None, :]  # (batch, 1, 1, 1 + capacity)
        real = torch.arange(source) < source_lengths.unsqueeze(1)
        cross_bias = torch.where(real, 0.0, _HIDDEN)[:, None, None, :]  # (batch, 1, 1, source)
        x = self.model.embedding(token) + functional.embedding(position, self.model.positional.table)
        columns: list[Tensor] = []
        for layer, qkv, cross_query, cache in zip(self.layers, self.qkv, self.cross_query, caches, strict=True):
            past_keys, past_values, cross_keys, cross_values = cache
            projected = qkv(layer.self_attention_residual.before(x))
            query, key, value = (each.reshape(-1, heads, d_k) for each in projected.split(d_model, 1))
            columns += [key, value]
            # A product and a sum are cheaper than a batch of 1 x d_k x 1 matrix products.
            score_new = (query * key).sum(-1).reshape(-1, heads, 1, 1)
            score_past = query.reshape(-1, heads, 1, d_k) @ past_keys.transpose(-2, -1)
            weights = torch.softmax(torch.cat((score_new, score_past), -1) + self_bias, -1)
            weight_new, weight_past = torch.split(weights, [1, capacity], -1)
            attended = weight_past @ past_values + weight_new * value.reshape(-1, heads, 1, d_k)
            merged = layer.self_attention.output_projection(attended.reshape(-1, d_model))
            x = layer.self_attention_residual.after(x, merged)
            query = cross_query(layer.cross_attention_residual.before(x)).reshape(-1, heads, 1, d_k)
            attended = torch.softmax(query @ cross_keys.transpose(-2, -1) + cross_bias, -1) @ cross_values
            merged = layer.cross_attention.output_projection(attended.reshape(-1, d_model))
            x = layer.cross_attention_residual.after(x, merged)
            x = layer.feed_forward_residual.after(x, layer.feed_forward(layer.feed_forward_residual.before(x)))
        return (self.model.generator(self.model.decoder.final_norm(x)), *columns)


def encoder_spec(config: TransformerConfig) -> spec.GraphSpec:
    """Signature of `EncoderGraph`."""
    return spec.GraphSpec(
        role=bundle_pb2.GRAPH_ROLE_ENCODER,
        file_name="encoder.onnx",
        inputs=tuple(spec.Tensor(name, "int64", ("tokens",)) for name in ("input_ids", "position_ids", "segment")),
        outputs=tuple(
            tensor for i in range(config.num_decoder_layers) for tensor in _cross_tensors(config, i, ("tokens",))
        ),
    )


def decoder_step_spec(config: TransformerConfig) -> spec.GraphSpec:
    """Signature of `DecoderStepGraph`."""
    heads, d_k, layers = config.num_heads, config.d_k, range(config.num_decoder_layers)
    past = ("batch", heads, "capacity", d_k)
    return spec.GraphSpec(
        role=bundle_pb2.GRAPH_ROLE_DECODER_STEP,
        file_name="decoder_step.onnx",
        inputs=(
            *(spec.Tensor(name, "int64", ("batch",)) for name in ("token", "position", "source_lengths")),
            *(
                tensor
                for i in layers
                for tensor in (
                    spec.Tensor(f"self_key_{i}", "float32", past),
                    spec.Tensor(f"self_value_{i}", "float32", past),
                    *_cross_tensors(config, i, ("batch",), ("source",)),
                )
            ),
        ),
        outputs=(
            spec.Tensor("logits", "float32", ("batch", config.vocab_size)),
            *(
                spec.Tensor(f"new_{kind}_{i}", "float32", ("batch", heads, d_k))
                for i in layers
                for kind in ("key", "value")
            ),
        ),
    )


def _cross_tensors(
    config: TransformerConfig, layer: int, before: tuple[str, ...], after: tuple[str, ...] = ()
) -> tuple[spec.Tensor, spec.Tensor]:
    shape: tuple[int | str, ...] = (*before, config.num_heads, *after, config.d_k)
    key, value = f"cross_key_{layer}", f"cross_value_{layer}"
    return spec.Tensor(key, "float32", shape), spec.Tensor(value, "float32", shape)


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
