"""The methods that generate, of both clients."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from headwaiter import codec, methods
from headwaiter.awaiting import AwaitingBase
from headwaiter.blocking import BlockingBase
from headwaiter.errors import DeadlineExceededError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from headwaiter.generation_stream import AsyncGenerationStream, GenerationStream
    from headwaiter.results import GenerateReply


class Generating(BlockingBase):
    """`Client`'s."""

    def generate(  # noqa: PLR0913 - one for each option
        self,
        texts: str | Sequence[str],
        *,
        model: str = "",
        version: int = 0,
        max_new_tokens: int = 0,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        num_beams: int = 0,
        num_return_sequences: int = 0,
        length_penalty: float | None = None,
        stop: str | Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        logprobs: int | None = None,
        attention: bool = False,
        timeout_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> GenerateReply:
        """Generates a text for each input text.

        Without an option that says otherwise, each token is the likeliest one. The tokens of a text depend on the text,
        the options and the seed alone.

        Args:
            texts: One text or several; what comes of one never depends on the others.
            model: Name of the model; may be left out when the server holds exactly one.
            version: Version of the model; 0 means the one that serves by default.
            max_new_tokens: The most tokens to generate for each text; 0 means as many as the model's limits leave.
            temperature: Above 0, tokens are drawn by chance: below 1 the likely ones more often, above 1 less often.
            top_k: Draw only from so many of the likeliest tokens; 0 means from all.
            top_p: Draw only from the likeliest tokens that together reach this probability; None means from all.
            repetition_penalty: Above 1, makes tokens less likely that were there before; None changes nothing.
            seed: Where chance begins; None lets the server choose, which tells it in the result.
            num_beams: Candidates that beam search keeps; 0 and 1 mean no beam search.
            num_return_sequences: How many of its candidates are returned; 0 means 1, the best.
            length_penalty: Beam search divides a log-probability by the length to this power; None means 1.
            stop: Strings that end a text where they appear, and are left out with what follows.
            stop_token_ids: Tokens that end a text, like the model's own end of sequence.
            logprobs: Tell the log-probability of each token, and of so many of the likeliest beside it; None for none.
            attention: Tell what each token attended to; only of models with an encoder.
            timeout_seconds: Deadline of this call; None takes the client's.
            metadata: gRPC metadata of this call, such as `headwaiter-priority`, or a `traceparent`.

        Returns:
            The generations in the order of the texts, and where the time went.
        """
        request = codec.generate_request(
            texts,
            model=model,
            version=version,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            num_beams=num_beams,
            num_return_sequences=num_return_sequences,
            length_penalty=length_penalty,
            stop=stop,
            stop_token_ids=stop_token_ids,
            logprobs=logprobs,
            attention=attention,
        )
        with _what_helps_told():
            return self._call(methods.GENERATE, request, timeout_seconds, metadata)

    def generate_stream(  # noqa: PLR0913 - as above
        self,
        texts: str | Sequence[str],
        *,
        model: str = "",
        version: int = 0,
        max_new_tokens: int = 0,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        num_beams: int = 0,
        num_return_sequences: int = 0,
        length_penalty: float | None = None,
        stop: str | Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        logprobs: int | None = None,
        attention: bool = False,
        timeout_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> GenerationStream:
        """Generates a text for each input text, and gives it piece by piece as it comes.

        The call begins at once. It ends when the stream is closed, left by its `with` block, or let go of by a loop
        that is left early: breaking out is enough. gRPC tries again what is refused before the first piece.

        Args:
            texts: As of `generate`; pieces of several texts come in any order, and tell which they are of.
            model: As of `generate`.
            version: As of `generate`.
            max_new_tokens: As of `generate`.
            temperature: As of `generate`.
            top_k: As of `generate`.
            top_p: As of `generate`.
            repetition_penalty: As of `generate`.
            seed: As of `generate`.
            num_beams: As of `generate`; with beam search each text is one piece.
            num_return_sequences: As of `generate`.
            length_penalty: As of `generate`.
            stop: As of `generate`.
            stop_token_ids: As of `generate`.
            logprobs: As of `generate`.
            attention: As of `generate`.
            timeout_seconds: Deadline of the whole stream; None for none, however long the client's is.
            metadata: As of `generate`.

        Returns:
            The pieces, to be iterated over; `reply()` reads to the end and gives what `generate` would have returned.
        """
        request = codec.generate_request(
            texts,
            model=model,
            version=version,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            num_beams=num_beams,
            num_return_sequences=num_return_sequences,
            length_penalty=length_penalty,
            stop=stop,
            stop_token_ids=stop_token_ids,
            logprobs=logprobs,
            attention=attention,
        )
        return self._generation_stream(request, timeout_seconds, metadata)


class AsyncGenerating(AwaitingBase):
    """`AsyncClient`'s."""

    async def generate(  # noqa: PLR0913 - as above
        self,
        texts: str | Sequence[str],
        *,
        model: str = "",
        version: int = 0,
        max_new_tokens: int = 0,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        num_beams: int = 0,
        num_return_sequences: int = 0,
        length_penalty: float | None = None,
        stop: str | Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        logprobs: int | None = None,
        attention: bool = False,
        timeout_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> GenerateReply:
        """Generates a text for each input text; `Client.generate` describes the arguments."""
        request = codec.generate_request(
            texts,
            model=model,
            version=version,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            num_beams=num_beams,
            num_return_sequences=num_return_sequences,
            length_penalty=length_penalty,
            stop=stop,
            stop_token_ids=stop_token_ids,
            logprobs=logprobs,
            attention=attention,
        )
        with _what_helps_told():
            return await self._call(methods.GENERATE, request, timeout_seconds, metadata)

    def generate_stream(  # noqa: PLR0913 - as above
        self,
        texts: str | Sequence[str],
        *,
        model: str = "",
        version: int = 0,
        max_new_tokens: int = 0,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        num_beams: int = 0,
        num_return_sequences: int = 0,
        length_penalty: float | None = None,
        stop: str | Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        logprobs: int | None = None,
        attention: bool = False,
        timeout_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncGenerationStream:
        """Generates piece by piece, for `async for`; `Client.generate_stream` describes the arguments."""
        request = codec.generate_request(
            texts,
            model=model,
            version=version,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            num_beams=num_beams,
            num_return_sequences=num_return_sequences,
            length_penalty=length_penalty,
            stop=stop,
            stop_token_ids=stop_token_ids,
            logprobs=logprobs,
            attention=attention,
        )
        return self._generation_stream(request, timeout_seconds, metadata)


@contextmanager
def _what_helps_told() -> Iterator[None]:
    # A text goes on for as long as it may, and a call ends with the last of its texts.
    try:
        yield
    except DeadlineExceededError as error:
        what_helps = "a smaller max_new_tokens or a longer timeout helps, or a stream"
        raise DeadlineExceededError(f"{error}: {what_helps}") from error.__cause__
