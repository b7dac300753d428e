"""Room in the cache of a running batch: who fits in, who has to wait, who never will. Pure.

What a text could need at most is set aside for it before its first run, so that nobody who runs has ever to make way.
Whoever is first in the backlog's order and does not fit in keeps those behind it waiting, too: it is not overtaken, and
gets its turn as soon as those that are running have left enough.
"""

from __future__ import annotations

from headwaiter_server.config import Batching
from headwaiter_server.errors import InvalidRequestError
from headwaiter_server.generation.decoding import MOST_BEAMS
from headwaiter_server.generation.sequence import GenerationTask
from headwaiter_server.model.generation import GenerationModel
from headwaiter_server.scheduling.policy import Entry


def rows_for(batching: Batching, most: int) -> int:
    """Rows of a running batch.

    Args:
        batching: See `GenerationLane`; one text at a time has a row for each of its beams.
        most: How many there may be.
    """
    return min(MOST_BEAMS, most) if batching == "none" else most


class Room:
    """The rows and the bytes of one running batch.

    Attributes:
        rows: Its rows.
        size_bytes: What its texts may keep of what they have read, together.
        capacity: Most tokens of one row.
    """

    def __init__(self, model: GenerationModel, rows: int, size_bytes: int | None = None, batches: int = 1) -> None:
        """Measure a batch.

        Args:
            model: Whose texts.
            rows: How many at the same time.
            size_bytes: Bytes; None: as many as all rows could use.
            batches: Running batches that there are, each with as much; a refusal says so.
        """
        self._model = model
        self._setting = "--kv-cache-bytes" if batches == 1 else f"each of {batches} workers' part of --kv-cache-bytes"
        self.rows = rows
        row_bytes = model.max_total_tokens * (model.token_bytes + model.source_token_bytes)
        self.size_bytes = rows * row_bytes if size_bytes is None else size_bytes
        self.capacity = max(1, min(model.max_total_tokens, self.size_bytes // max(1, model.token_bytes)))

    def tokens(self, task: GenerationTask) -> int:
        """Most tokens that a row of a text reads, what it goes on with among them."""
        own = len(task.source) if self._model.start_id is None else 0
        return min(own + task.decoding.max_new_tokens, self._model.max_total_tokens)

    def bytes_for(self, task: GenerationTask) -> int:
        """What is set aside for a text."""
        source_bytes = len(task.source) * self._model.source_token_bytes
        return (self.tokens(task) * self._model.token_bytes + source_bytes) * task.decoding.num_beams

    def check(self, task: GenerationTask, field: str) -> None:
        """Refuse a text that would never fit in.

        Args:
            task: The text.
            field: Where it stands in the request.

        Raises:
            InvalidRequestError: It needs more than there is.
        """
        beams = task.decoding.num_beams
        if beams > self.rows:
            raise InvalidRequestError("num_beams", f"is {beams}, the limit is {self.rows} (--max-batch-rows)")
        own = len(task.source) if self._model.start_id is None else 0
        most = self._model.max_total_tokens
        if own >= most:
            raise InvalidRequestError(
                field, f"has {own} tokens, the limit is {most - 1}, which leaves room for one more"
            )
        if own + task.decoding.max_new_tokens > most:
            raise InvalidRequestError(
                "max_new_tokens", f"is {task.decoding.max_new_tokens}, the limit beside {own} tokens is {most - own}"
            )
        if (needed := self.bytes_for(task)) > self.size_bytes:
            with_beams = f" with {beams} beams" if beams > 1 else ""
            remedy = "; a smaller max_new_tokens needs less" if task.decoding.max_new_tokens > 1 else ""
            raise InvalidRequestError(
                field,
                f"needs up to {needed} bytes of cache for {self.tokens(task)} tokens{with_beams}, "
                f"the limit is {self.size_bytes} ({self._setting}){remedy}",
            )


class Joining:
    """Texts that are about to join a running batch, as far as there is room; implements `Mates`.

    Attributes:
        full: Whether the next one has to wait; nobody joins in its stead.
        short_of_bytes: Whether it has to wait although there would be a row for it.
    """

    def __init__(self, room: Room, free_rows: int, reserved_bytes: int) -> None:
        """Before the first.

        Args:
            room: Of the batch.
            free_rows: Rows that nobody has.
            reserved_bytes: What is set aside already.
        """
        self._room = room
        self._free_rows = free_rows
        self._free_bytes = room.size_bytes - reserved_bytes
        self.full = False
        self.short_of_bytes = False

    def join(self, entry: Entry) -> bool:
        """Let an entry join, or have it wait; see `Mates`."""
        task: GenerationTask = entry.payload
        rows, needed = task.decoding.num_beams, self._room.bytes_for(task)
        self.short_of_bytes = rows <= self._free_rows and needed > self._free_bytes
        self.full = rows > self._free_rows or needed > self._free_bytes
        if not self.full:
            self._free_rows -= rows
            self._free_bytes -= needed
        return not self.full
