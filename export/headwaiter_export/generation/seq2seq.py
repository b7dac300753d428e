"""Encoder-decoder models as two graphs: sources to what the decoder attends to, and the decoder with its cache.

The sources of a run lie end to end in one row, with attention within each of them, as in the packed graphs of encoders.
The decoder's attention to itself is that of decoder-only models. What it attends to of its source is computed once, by
the encoder's graph.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from headwaiter_export.generation.cache import LOWEST, Cache
from headwaiter_export.generation.cached import reading
from headwaiter_export.generation.graph import answer_last
from headwaiter_export.generation.parts import Pair, Part, Run, current, running


class _Itself:
    """Stands for the decoder's cache of itself: what it is given comes back, for the attention to put away."""

    def update(self, key: Tensor, value: Tensor, *_: object, **__: object) -> Pair:
        return key, value

    def get_seq_length(self, *_: object) -> int:
        return 0


class _Source:
    """Stands for the decoder's cache of its source."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.layers = {layer: _Layer(*pair) for layer, pair in run.cross.items()}

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object, **__: object) -> Pair:
        self._run.cross[layer] = (key, value)
        return key, value


@dataclass
class _Layer:
    keys: Tensor
    values: Tensor


class _Caches(EncoderDecoderCache):
    """Both, where transformers looks for them."""

    def __init__(self, run: Run) -> None:
        self.self_attention_cache: Any = _Itself()
        self.cross_attention_cache: Any = _Source(run)
        self.is_updated = dict.fromkeys(run.cross, True)


class _Positions(nn.Module):
    """Embeddings of the positions that the run says, in place of those that the model counts itself."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table: Any = table
        self._offset = int(getattr(table, "offset", 0))

    def forward(self, *_: object, **__: object) -> Tensor:
        return nn.functional.embedding(current().positions + self._offset, self.table.weight)


class Seq2Seq(nn.Module):
    """A model whose parts can be traced one by one."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (one of transformers' many classes)
        """Use the weights of `model`, which was loaded with `ATTENTION`; it cannot be used for anything else then."""
        super().__init__()
        self.model = model
        answer_last(model)
        for stack in (model.get_encoder(), model.get_decoder()):
            if hasattr(stack, "embed_positions"):
                stack.embed_positions = _Positions(stack.embed_positions)
            for layer in stack.modules():
                if getattr(layer, "has_relative_attention_bias", False):
                    layer.compute_bias = _Relative(layer)

    def logits(self, hidden: Tensor, tokens: Tensor, run: Run) -> Tensor:
        """The decoder: logits of what follows tokens, `(rows, tokens, vocab)`."""
        answer: Tensor = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            decoder_input_ids=tokens,
            # Four axes pass for finished masks, which the attention does not read.
            attention_mask=torch.zeros(1, 1, 1, 1),
            decoder_attention_mask=torch.zeros(1, 1, 1, 1),
            past_key_values=_Caches(run),
            use_cache=False,
        ).logits
        return answer


class _Relative:
    """Biases learned for distances (T5), for the tokens of the run instead of neighbours in a row."""

    def __init__(self, layer: Any) -> None:  # noqa: ANN401 (a family's attention)
        self._layer = layer

    def __call__(self, _tokens: int, _keys: int, **_: object) -> Tensor:
        run, layer = current(), self._layer
        # (rows, 1, keys): of the encoder the tokens themselves, of the decoder every place of the cache
        keys = run.positions if run.part is Part.ENCODER else torch.arange(_places()).unsqueeze(0)
        distance = keys.unsqueeze(1) - run.positions.unsqueeze(2)
        buckets = layer._relative_position_bucket(  # noqa: SLF001 - the family's own
            distance,
            bidirectional=not layer.is_decoder,
            num_buckets=layer.relative_attention_num_buckets,
            max_distance=layer.relative_attention_max_distance,
        )
        bias: Tensor = layer.relative_attention_bias(buckets).permute(0, 3, 1, 2)
        return bias


_capacity: ContextVar[int] = ContextVar("capacity")


def _places() -> int:
    return _capacity.get(1)


class EncoderGraph(nn.Module):
    """Tokens of many sources, end to end, to the keys and values that each layer of the decoder attends to."""

    def __init__(self, parts: Seq2Seq) -> None:
        """Use the weights of `parts`."""
        super().__init__()
        self.parts = parts

    def forward(self, input_ids: Tensor, position_ids: Tensor, segment: Tensor) -> tuple[Tensor, ...]:
        """Run the encoder.

        Args:
            input_ids: `(tokens,)`.
            position_ids: `(tokens,)`, from 0 in each source.
            segment: `(tokens,)`, number of the source.

        Returns:
            Per layer of the decoder keys and values, `(tokens, heads, head_dim)`.
        """
        bias = torch.where(segment.unsqueeze(1) == segment, 0.0, LOWEST)[None, None]
        positions = position_ids.unsqueeze(0)
        with running(Run(Part.ENCODER, positions, bias)):
            encoder = self.parts.model.get_encoder()
            hidden = encoder(input_ids=input_ids.unsqueeze(0), attention_mask=bias).last_hidden_state
        with running(Run(Part.PROJECTIONS, torch.zeros(1, 1, dtype=torch.int64), bias)) as run:
            self.parts.logits(hidden, torch.zeros(1, 1, dtype=torch.int64), run)
        pairs = [run.cross[layer] for layer in range(len(run.cross))]
        return tuple(tensor[0].transpose(0, 1) for pair in pairs for tensor in pair)


class DecoderGraph(nn.Module):
    """Tokens of each row, at its own place, to the logits of the next."""

    def __init__(self, parts: Seq2Seq, suppress: nn.Module) -> None:
        """Use the weights of `parts`; `suppress` is a `graph.Suppress`."""
        super().__init__()
        self.parts = parts
        self.suppress = suppress
        self._width = int(parts.model.config.d_model)

    def forward(
        self, input_ids: Tensor, past_lengths: Tensor, source_lengths: Tensor, layers: list[tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """Run the decoder.

        Args:
            input_ids: `(rows, tokens)`: what comes behind the tokens that a row has in the cache.
            past_lengths: `(rows,)`: how many those are.
            source_lengths: `(rows,)`, each at least 1.
            layers: Of each layer keys and values of what was generated, `(rows, heads, capacity, head_dim)`, and of the
                source, `(rows, heads, source, head_dim)`. What lies beyond a row's own may be anything finite.

        Returns:
            Logits of what follows each row's last token, `(rows, vocab)`; what that token attends to in the source,
            `(rows, layers, heads, source)`; then the keys and values of what was generated, with the new columns.
        """
        tokens = input_ids.size(1)
        past = [(key, value) for key, value, *_ in layers]
        source = layers[0][2].size(2)
        hidden = torch.arange(source) >= source_lengths.unsqueeze(1)
        bias = torch.where(hidden, LOWEST, 0.0)[:, None, None]  # (rows, 1, 1, source)
        positions = past_lengths.unsqueeze(1) + torch.arange(tokens)
        cross = {layer: (each[2], each[3]) for layer, each in enumerate(layers)}
        places = _capacity.set(past[0][0].size(2))
        cache = Cache.before(past, past_lengths, tokens)
        try:
            with reading(cache), running(Run(Part.DECODER, positions, bias, cross)) as run:
                # The layers have their keys and values: of the encoder's answer only that it is one is looked at.
                logits = self.parts.logits(bias.new_zeros(1, 1, self._width), input_ids, run)
        finally:
            _capacity.reset(places)
        return (self.suppress(logits[:, -1]), torch.stack(run.weights, 1), *cache.outputs())
