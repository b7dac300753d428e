"""The client's streams of generation against the real server: they give what calls give, and end when left."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from headwaiter import AsyncClient, Client, GenerateReply

from .process import ServerProcess, environment

COMMAND = [sys.executable, "-c", "from headwaiter.cli import main; main()", "generate"]
WORDS = ["onomatopoeia", "waiter", "word", "a"]


def told(reply: GenerateReply) -> list[Any]:
    """What does not depend on when it was generated."""
    return [(each.text, each.token_ids, each.finish_reason, each.source_tokens) for each in reply.generations]


async def test_pieces_make_up_what_a_call_answers(server: ServerProcess) -> None:
    """From both clients: the same texts, tokens and reasons, in the order of the words."""
    with Client(server.grpc) as client:
        whole = told(client.generate(WORDS))
        with client.generate_stream(WORDS) as stream:
            pieces = list(stream)
            assert told(stream.reply()) == whole
        for index, (text, token_ids, *_) in enumerate(whole):
            own = [piece for piece in pieces if piece.index == index]
            assert "".join(piece.text for piece in own) == text
            assert tuple(token for piece in own for token in piece.token_ids) == token_ids
            seconds = [each for piece in own for each in piece.token_seconds]
            assert seconds == sorted(seconds)
            assert len(seconds) == len(token_ids)
    async with AsyncClient(server.grpc) as client_too:
        assert told(await client_too.generate_stream(WORDS).reply()) == whole


def test_the_command_prints_pieces_in_the_order_of_the_words(server: ServerProcess) -> None:
    """What it prints as it comes is what it prints when it is whole."""
    printed = [
        subprocess.run(
            [*COMMAND, way, "--target", server.grpc, *WORDS],
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for way in ("--stream", "--no-stream")
    ]
    assert printed[0] == printed[1]
    assert len(printed[0].splitlines()) == len(WORDS)


async def test_streams_that_are_left_leave_the_server_free(server: ServerProcess) -> None:
    """Many streams that are broken out of after their first piece, from both clients; then all is as before."""
    with Client(server.grpc) as client:
        whole = told(client.generate(WORDS))
        for _ in range(100):
            for piece in client.generate_stream(WORDS):
                assert piece.token_ids or piece.finished
                break
        assert told(client.generate(WORDS)) == whole
    async with AsyncClient(server.grpc) as client_too:
        for _ in range(100):
            async for piece in client_too.generate_stream(WORDS):
                assert piece.token_ids or piece.finished
                break
        assert told(await client_too.generate(WORDS)) == whole
