"""Texts to token ids and back, with the tokenizer the model was trained with."""

from headwaiter_server.tokenizer.text import TextTokenizer, Tokens

__all__ = ["TextTokenizer", "Tokens"]
