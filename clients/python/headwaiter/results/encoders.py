"""What `embed`, `classify`, `tag`, `rerank` and `tokenize` return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwaiter.errors import HeadwaiterError
    from headwaiter.results.timings import Reading, Timings


# Compared by identity, as arrays have no one answer to whether they are equal.
@dataclass(frozen=True, slots=True, eq=False)
class EmbedReply:
    """The answer to one `embed` call.

    Attributes:
        model: The model that answered.
        version: The version that answered.
        variant: The variant of the weights that answered: "fp32", "int8".
        vectors: One for each text, in the order of the texts: where numpy is installed a float32 array
            `(texts, dimension)` that cannot be written to, else `Vectors`.
        dimension: Numbers of a vector.
        reading: How the texts were read.
        timings: Where the time of the call went.
    """

    model: str
    version: int
    variant: str
    vectors: Any
    dimension: int
    reading: Reading
    timings: Timings


@dataclass(frozen=True, slots=True, eq=False)
class StreamedReply:
    """What came of one item of an `embed_stream`.

    Attributes:
        index: Which item: 0 for the first.
        reply: The answer; None where there is an error.
        error: Why there is none; the stream goes on.
    """

    index: int
    reply: EmbedReply | None
    error: HeadwaiterError | None

    def get(self) -> EmbedReply:
        """The answer.

        Raises:
            HeadwaiterError: There is none.
        """
        if self.error is not None:
            raise self.error
        if self.reply is None:
            raise ValueError("a streamed reply has an answer or an error")
        return self.reply


@dataclass(frozen=True, slots=True)
class Classification:
    """The scores of one text.

    Attributes:
        scores: One for each label, in the order of `ClassifyReply.labels`.
    """

    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ClassifyReply:
    """The answer to one `classify` call.

    Attributes:
        model: The model that answered.
        version: The version that answered.
        variant: The variant of the weights that answered.
        labels: The model's labels.
        classifications: One for each text, in the order of the texts.
        reading: How the texts were read.
        timings: Where the time of the call went.
    """

    model: str
    version: int
    variant: str
    labels: tuple[str, ...]
    classifications: tuple[Classification, ...]
    reading: Reading
    timings: Timings


@dataclass(frozen=True, slots=True)
class Span:
    """A labelled stretch of a text: `text[start:end]`.

    Attributes:
        start: First character.
        end: One past the last character.
        label: The label; aggregated, without its B- or I-.
        score: Its score.
    """

    start: int
    end: int
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Tagging:
    """The spans of one text.

    Attributes:
        spans: In the order of the text.
    """

    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class TagReply:
    """The answer to one `tag` call.

    Attributes:
        model: The model that answered.
        version: The version that answered.
        variant: The variant of the weights that answered.
        taggings: One for each text, in the order of the texts.
        reading: How the texts were read.
        timings: Where the time of the call went.
    """

    model: str
    version: int
    variant: str
    taggings: tuple[Tagging, ...]
    reading: Reading
    timings: Timings


@dataclass(frozen=True, slots=True)
class RankedText:
    """One text's place.

    Attributes:
        index: Its index in the texts that were sent.
        score: How well it answers the query.
    """

    index: int
    score: float


@dataclass(frozen=True, slots=True)
class RerankReply:
    """The answer to one `rerank` call.

    Attributes:
        model: The model that answered.
        version: The version that answered.
        variant: The variant of the weights that answered.
        ranking: Best first; of equal scores, the earlier text first.
        reading: How the texts were read, in the order in which they were sent.
        timings: Where the time of the call went.
    """

    model: str
    version: int
    variant: str
    ranking: tuple[RankedText, ...]
    reading: Reading
    timings: Timings


@dataclass(frozen=True, slots=True)
class Tokenization:
    """The tokens of one text, special tokens included.

    Attributes:
        ids: Their ids.
        tokens: The tokens as the vocabulary writes them.
        starts: First character of each; special tokens stand at 0, 0.
        ends: One past the last character of each.
    """

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenizeReply:
    """The answer to one `tokenize` call.

    Attributes:
        model: The model whose tokenizer answered.
        version: Its version.
        tokenizations: One for each text, in the order of the texts.
        timings: Where the time went; nothing waits and nothing runs.
    """

    model: str
    version: int
    tokenizations: tuple[Tokenization, ...]
    timings: Timings
