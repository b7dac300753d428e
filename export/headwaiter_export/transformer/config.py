"""The sizes of one Transformer, validated once and then trusted everywhere."""

from __future__ import annotations

from dataclasses import dataclass

from headwaiter_export.transformer.errors import ConfigError

_POSITIVE_FIELDS = (
    "vocab_size",
    "d_model",
    "num_heads",
    "d_ff",
    "num_encoder_layers",
    "num_decoder_layers",
    "max_source_length",
    "max_target_length",
)
_TOKEN_ID_FIELDS = ("pad_id", "bos_id", "eos_id")


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes and special tokens of an encoder-decoder Transformer.

    The defaults are the base model of "Attention Is All You Need", table 3.

    Attributes:
        vocab_size: Entries of the one vocabulary that source and target share (section 3.4).
        d_model: Width of every sub-layer's output.
        num_heads: Heads of each attention; `d_k = d_model / num_heads`.
        d_ff: Inner width of the feed-forward networks (section 3.3).
        num_encoder_layers: Encoder layers, N in figure 1.
        num_decoder_layers: Decoder layers, N in figure 1.
        dropout: Probability on sub-layer outputs and on embedding sums (section 5.4).
        max_source_length: Longest source, in tokens, its end token included.
        max_target_length: Longest target, in tokens, its begin token included.
        pad_id: Token that fills the end of short rows.
        bos_id: Token every target begins with.
        eos_id: Token every source and target ends with.
        norm_first: Normalise before each sub-layer instead of after its residual sum. This departs from the
            paper (section 3.1 has LayerNorm(x + Sublayer(x))): with the norm outside the residual path the
            gradient reaches the first layer undiminished, so training is stable at a higher learning rate
            and with a short warm-up (Xiong et al. 2020, "On Layer Normalization in the Transformer
            Architecture").

    Raises:
        ConfigError: A value is out of range or contradicts another one.
    """

    vocab_size: int
    d_model: int = 512
    num_heads: int = 8
    d_ff: int = 2048
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    dropout: float = 0.1
    max_source_length: int = 512
    max_target_length: int = 512
    pad_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    norm_first: bool = False

    def __post_init__(self) -> None:
        for name in _POSITIVE_FIELDS:
            _check_integer(name, getattr(self, name), 1, None)
        for name in _TOKEN_ID_FIELDS:
            _check_integer(name, getattr(self, name), 0, self.vocab_size)
        if len({self.pad_id, self.bos_id, self.eos_id}) < len(_TOKEN_ID_FIELDS):
            raise ConfigError("pad_id, bos_id and eos_id must differ")
        if self.d_model % self.num_heads:
            raise ConfigError(f"d_model={self.d_model} is not a multiple of num_heads={self.num_heads}")
        if self.d_model % 2:
            raise ConfigError(f"d_model must be even, for sine-cosine pairs, not {self.d_model}")
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, (int, float)):
            raise ConfigError(f"dropout must be a number, not {self.dropout!r}")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout must be in [0, 1), not {self.dropout}")
        if not isinstance(self.norm_first, bool):
            raise ConfigError(f"norm_first must be true or false, not {self.norm_first!r}")

    @property
    def d_k(self) -> int:
        """Width of one head; the paper's d_k = d_v = d_model / h (section 3.2.2)."""
        return self.d_model // self.num_heads


def _check_integer(name: str, value: object, lowest: int, bound: int | None) -> None:
    # bool is an int to Python, and "true" in a JSON file is never a size.
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name} must be an integer, not {value!r}")
    if value < lowest:
        raise ConfigError(f"{name} must be at least {lowest}, not {value}")
    if bound is not None and value >= bound:
        raise ConfigError(f"{name} must be below vocab_size={bound}, not {value}")
