"""The text of a generation while its tokens come: pieces that stay as they are, and strings that end it."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

# What decoders write for bytes that are no character, or not yet.
_REPLACEMENT = "\ufffd"
# How many tokens are decoded again for each new one, and how many are kept when they become too many. A character has
# no more bytes than these, so that one that the window's beginning has cut in two ends in it.
_MOST_WINDOW = 16
_LEAST_WINDOW = 4


class TextStream:
    """Turns tokens into pieces of text, which together are what decoding all the tokens at once gives.

    A piece holds whole characters that no later token changes, and nothing that may be the beginning of a stop string;
    and each holds all that there is of that. Takes time linear in the tokens.

    Not all tokens are decoded again for each new one, but only a window, the last few. What its first token gives may
    differ from what it gives behind others: decoders drop spaces before it, or it has only the last bytes of a
    character. But it gives the same whatever comes behind, and so what a new token adds to the window's text is what it
    adds to the whole, once the window has some text and the character is over.

    Attributes:
        stopped_by: The stop string that ended the text; the text goes up to its beginning. None so far, or if none did.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        stop: Sequence[str] = (),
        *,
        silent_ids: Container[int] = (),
        byte_ids: Container[int] = (),
        left_to_right: bool = True,
    ) -> None:
        """Before the first token.

        Args:
            decode: Gives the text of tokens.
            stop: Strings that end the text: the one that is complete first, and of several the longest.
            silent_ids: Tokens that `decode` leaves out.
            byte_ids: Tokens that stand for a byte, of which `decode` judges neighbouring ones together.
            left_to_right: Whether more tokens only lengthen the text, but for such bytes and a character that is not
                complete. Otherwise nothing is certain before the end.
        """
        self._decode = decode
        self._silent_ids = silent_ids
        self._byte_ids = byte_ids
        self._left_to_right = left_to_right
        self._stops = _StopStrings(stop) if stop else None
        self._window: list[int] = []
        self._most_window = _MOST_WINDOW
        # Characters of the window's text that are certain and were taken.
        self._taken = 0
        self._pieces: list[str] = []

    @property
    def stopped_by(self) -> str | None:
        """See the class."""
        return None if self._stops is None else self._stops.found

    @property
    def text(self) -> str:
        """All that was given so far."""
        return "".join(self._pieces)

    def push(self, token_id: int) -> str:
        """Take the next token; gives the text that is certain now, "" once it has stopped."""
        if token_id in self._silent_ids or self.stopped_by is not None:
            return ""
        self._window.append(token_id)
        if not self._left_to_right or token_id in self._byte_ids:
            return ""
        certain = _certain(self._decode(self._window))
        fresh = certain[self._taken :]
        self._taken = len(certain)
        if len(self._window) > self._most_window:
            self._move_window()
        return self._given(fresh, last=False)

    def finish(self) -> str:
        """Say that there are no more tokens; gives the rest of the text, in which it may still be stopped."""
        if self.stopped_by is not None:
            return ""
        fresh = self._decode(self._window)[self._taken :] if self._window else ""
        self._window = []
        self._taken = 0
        return self._given(fresh, last=True)

    def _given(self, fresh: str, *, last: bool) -> str:
        piece = fresh if self._stops is None else self._stops.push(fresh, last=last)
        if piece:
            self._pieces.append(piece)
        return piece

    def _move_window(self) -> None:
        """Have the window begin later, where what is left has some text."""
        kept = _LEAST_WINDOW
        while kept < len(self._window):
            certain = _certain(self._decode(self._window[-kept:]))
            if certain:
                self._window = self._window[-kept:]
                self._taken = len(certain)
                self._most_window = kept + _MOST_WINDOW - _LEAST_WINDOW
                return
            kept *= 2
        self._most_window = 2 * len(self._window)


def _certain(text: str) -> str:
    """The text without the character at its end that a later token may complete, whatever it has of its bytes."""
    return text.removesuffix(_REPLACEMENT)


class _StopStrings:
    """Looks for strings in a text that comes in pieces, and holds back what may be the beginning of one.

    Attributes:
        found: The one that was found.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        # The longest end of the text that one of them begins with: whatever is found later begins there or behind it.
        self._held = ""
        self.found: str | None = None

    def push(self, fresh: str, *, last: bool) -> str:
        """Take more of the text; gives what comes before any stop string, to the end if it is the `last`."""
        text = self._held + fresh
        starts = {stop: start for stop in self._stops if (start := text.find(stop)) >= 0}
        if starts:
            self.found = min(starts, key=lambda stop: (starts[stop] + len(stop), starts[stop]))
            self._held = ""
            return text[: starts[self.found]]
        certain = len(text) if last else min(_beginning(stop, text) for stop in self._stops)
        self._held = text[certain:]
        return text[:certain]


def _beginning(stop: str, text: str) -> int:
    """From where on the rest of the text is how a stop string begins; the text's length if from nowhere."""
    start = max(0, len(text) - len(stop) + 1)
    while (start := text.find(stop[0], start)) >= 0:
        if stop.startswith(text[start:]):
            return start
        start += 1
    return len(text)
