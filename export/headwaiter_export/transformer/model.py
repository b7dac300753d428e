"""The whole model of figure 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from headwaiter_export.transformer.masks import causal_mask, padding_mask
from headwaiter_export.transformer.positional import Generator, PositionalEncoding, TokenEmbedding
from headwaiter_export.transformer.stacks import Decoder, Encoder

if TYPE_CHECKING:
    from headwaiter_export.transformer.config import TransformerConfig


class Transformer(nn.Module):
    """Encoder-decoder Transformer over one joint vocabulary, with one shared embedding matrix."""

    def __init__(self, config: TransformerConfig) -> None:
        """Create the model with fresh weights."""
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config.vocab_size, config.d_model)
        # The encoding of a position does not depend on the side it is on, so both sides share one table.
        max_length = max(config.max_source_length, config.max_target_length)
        self.positional = PositionalEncoding(config.d_model, max_length, config.dropout)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.generator = Generator(self.embedding)
        for module in (*self.encoder.modules(), *self.decoder.modules()):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, source_ids: Tensor, source_lengths: Tensor, target_ids: Tensor, target_lengths: Tensor) -> Tensor:
        """Logits of every next token, given the tokens before it (teacher forcing).

        Args:
            source_ids: `(batch, source)`, padded on the right.
            source_lengths: `(batch,)`.
            target_ids: `(batch, target)`, beginning with `bos_id`, padded on the right.
            target_lengths: `(batch,)`.

        Returns:
            `(batch, target, vocab_size)`; the logits at position i are for the token at i + 1.
        """
        source_mask = padding_mask(source_lengths, source_ids.size(1))
        length = target_ids.size(1)
        target_mask = padding_mask(target_lengths, length) & causal_mask(length, target_ids.device)
        memory = self.encode(source_ids, source_mask)
        logits: Tensor = self.generator(self.decode(target_ids, memory, target_mask, source_mask))
        return logits

    def encode(self, source_ids: Tensor, source_mask: Tensor | None) -> Tensor:
        """Run the encoder.

        Args:
            source_ids: `(batch, source)`.
            source_mask: `(batch, 1, 1, source)`.

        Returns:
            `(batch, source, d_model)`.
        """
        memory: Tensor = self.encoder(self.positional(self.embedding(source_ids)), source_mask)
        return memory

    def decode(
        self, target_ids: Tensor, memory: Tensor, target_mask: Tensor | None, source_mask: Tensor | None
    ) -> Tensor:
        """Run the decoder over a whole target.

        Args:
            target_ids: `(batch, target)`.
            memory: `(batch, source, d_model)`.
            target_mask: Broadcastable to `(batch, 1, target, target)`.
            source_mask: `(batch, 1, 1, source)`.

        Returns:
            `(batch, target, d_model)`, before the generator.
        """
        embedded = self.positional(self.embedding(target_ids))
        decoded: Tensor = self.decoder(embedded, memory, target_mask, source_mask)
        return decoded
