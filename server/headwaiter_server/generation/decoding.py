"""How tokens are chosen: the options of a request that generates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from headwaiter_server.errors import InvalidRequestError

MOST_BEAMS = 16
MOST_LOGPROBS = 20
MOST_STOPS = 16
MOST_STOP_CHARACTERS = 256
MOST_STOP_TOKEN_IDS = 64
MOST_SEED = 2**64 - 1

# Beyond these the numbers have no use; within them nothing overflows.
_MOST_TEMPERATURE = 100.0
_LEAST_REPETITION_PENALTY = 0.01
_MOST_REPETITION_PENALTY = 100.0
_MOST_LENGTH_PENALTY = 10.0

# Field and what is wrong with it.
_Problem = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Decoding:
    """What is asked of the choice of tokens, with the meanings that transformers' `generate` gives the same names.

    Without any of the options, the likeliest token is taken each time.

    Attributes:
        max_new_tokens: Most tokens to generate, the one that ends the text included.
        temperature: What logits are divided by before a token is drawn by its probability; 0: the likeliest is taken.
        top_k: Draw among this many of the likeliest, and those equal to the last of them; 0: among all.
        top_p: Draw among the fewest tokens that are this probable together.
        repetition_penalty: What the logits of tokens that were there are divided by (multiplied with, if negative).
        seed: What is drawn is a function of it, of the logits and of the number of the token. Must be there if tokens
            are drawn.
        num_beams: Hypotheses that beam search follows; 1: none.
        num_return_sequences: How many of them are answered.
        length_penalty: A hypothesis of n tokens is scored by the sum of its log-probabilities over n to this power.
        stop: Strings that end the text before them.
        stop_token_ids: Tokens that end the text, beside the model's own.
        logprobs: None: none; otherwise the log-probability of each token, and of this many of the likeliest ones.
        attention: Whether to tell what each token attends to in the source.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    logprobs: int | None = None
    attention: bool = False

    @property
    def deterministic(self) -> bool:
        """Whether the same text gives the same answer whatever the seed."""
        return self.temperature == 0.0

    def check(self, vocab_size: int | None = None, name: Callable[[str], str] = str) -> None:
        """Refuse what is out of range, and what does not go together.

        Args:
            vocab_size: Tokens of the model, where that is known.
            name: Gives the path in the request of a field of this class: `parameters[top_k]`.

        Raises:
            InvalidRequestError: Names the first such field, its value and its limit.
        """
        for field, problem in (*self._out_of_range(), *self._wrong_stops(vocab_size), *self._at_odds()):
            raise InvalidRequestError(name(field), problem)

    def _out_of_range(self) -> Iterator[_Problem]:
        yield from self._out_of_range_in_choosing()
        if self.max_new_tokens < 1:
            yield "max_new_tokens", f"is {self.max_new_tokens}, it must be at least 1"
        if not 1 <= self.num_beams <= MOST_BEAMS:
            yield "num_beams", f"is {self.num_beams}, it must be between 1 (no beam search) and {MOST_BEAMS}"
        if self.num_return_sequences < 1:
            yield "num_return_sequences", f"is {self.num_return_sequences}, it must be at least 1"
        if not abs(self.length_penalty) <= _MOST_LENGTH_PENALTY:
            yield "length_penalty", f"is {self.length_penalty:g}, it must be between -10 and 10"
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_LOGPROBS:
            yield "logprobs", f"is {self.logprobs}, it must be between 0 (of the chosen token only) and {MOST_LOGPROBS}"

    def _out_of_range_in_choosing(self) -> Iterator[_Problem]:
        # Written so that NaN, which compares with nothing, is out of every range.
        if not 0.0 <= self.temperature <= _MOST_TEMPERATURE:
            yield "temperature", f"is {self.temperature:g}, it must be between 0 (the likeliest token) and 100"
        if self.top_k < 0:
            yield "top_k", f"is {self.top_k}, it must be at least 0 (all tokens)"
        if not 0.0 < self.top_p <= 1.0:
            yield "top_p", f"is {self.top_p:g}, it must be above 0 and at most 1 (all tokens)"
        if not _LEAST_REPETITION_PENALTY <= self.repetition_penalty <= _MOST_REPETITION_PENALTY:
            yield "repetition_penalty", f"is {self.repetition_penalty:g}, it must be between 0.01 and 100 (1: none)"
        if self.seed is not None and not 0 <= self.seed <= MOST_SEED:
            yield "seed", f"is {self.seed}, it must be between 0 and {MOST_SEED}"

    def _wrong_stops(self, vocab_size: int | None) -> Iterator[_Problem]:
        if len(self.stop) > MOST_STOPS:
            yield "stop", f"has {len(self.stop)} strings, the limit is {MOST_STOPS}"
        for index, stop in enumerate(self.stop):
            if not stop:
                yield f"stop[{index}]", "is empty"
            if len(stop) > MOST_STOP_CHARACTERS:
                yield f"stop[{index}]", f"has {len(stop)} characters, the limit is {MOST_STOP_CHARACTERS}"
        if len(self.stop_token_ids) > MOST_STOP_TOKEN_IDS:
            yield "stop_token_ids", f"has {len(self.stop_token_ids)} tokens, the limit is {MOST_STOP_TOKEN_IDS}"
        for token_id in sorted(self.stop_token_ids):
            if token_id < 0:
                yield "stop_token_ids", f"holds {token_id}, tokens are numbered from 0"
            elif vocab_size is not None and token_id >= vocab_size:
                yield "stop_token_ids", f"holds {token_id}, the last of the model's tokens is {vocab_size - 1}"

    def _at_odds(self) -> Iterator[_Problem]:
        """What would have no effect, or has no meaning, beside the number of beams."""
        if self.num_return_sequences > self.num_beams:
            yield (
                "num_return_sequences",
                f"is {self.num_return_sequences}, it can be no more than num_beams, which is {self.num_beams}",
            )
        if self.num_beams == 1:
            if self.length_penalty != 1.0:
                yield "length_penalty", f"is {self.length_penalty:g}, it takes num_beams above 1"
            return
        beside = f"num_beams, which is {self.num_beams}"
        if self.temperature:
            yield "temperature", f"is {self.temperature:g}, it does not go with {beside}"
        if self.top_k:
            yield "top_k", f"is {self.top_k}, it does not go with {beside}"
        if self.top_p < 1.0:
            yield "top_p", f"is {self.top_p:g}, it does not go with {beside}"
        if self.stop:
            yield "stop", f"does not go with {beside}; stop_token_ids do"
        if self.attention:
            yield "attention", f"does not go with {beside}"
