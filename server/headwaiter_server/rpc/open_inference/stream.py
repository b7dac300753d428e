"""`ModelStreamInfer`: inferences over one call; what goes wrong with one is told in its answer.

Answers are in order. But those of models that generate come in pieces, as soon as they are there: several requests'
between one another, which ids tell apart, and between the others' answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from headwaiter_server.errors import InvalidRequestError, RequestError
from headwaiter_server.rpc.crossing import Crossing
from headwaiter_server.rpc.open_inference.form import Form, read_form
from headwaiter_server.rpc.open_inference.infer import Inference
from headwaiter_server.rpc.open_inference.wire import InferRequest, open_request, write_stream_error
from headwaiter_server.rpc.status import Status
from headwaiter_server.rpc.stream import Write
from headwaiter_server.scheduling.admission import Permit


@dataclass(slots=True)
class StreamedInference:
    """One message of a stream; implements `StreamMessage`.

    Attributes:
        inference: Who answers it.
        request: What to infer; or why that cannot be read.
        form: What it says; None if that cannot be answered.
        texts: See `StreamMessage`: as many rows as its inputs have, as far as it says so, and may say so.
        in_order: See `StreamMessage`.
    """

    inference: Inference
    request: InferRequest | InvalidRequestError
    form: Form | None
    texts: int
    in_order: bool = True

    async def answer(self, permit: Permit, crossing: Crossing, write: Write) -> bytes:
        """See `StreamMessage`."""
        if isinstance(self.request, InvalidRequestError):
            raise self.request
        return await self.inference.answer(self.request, permit, crossing, write, self.form)

    def refuse(self, status: Status) -> bytes:
        """See `StreamMessage`. The id stands where clients look for it in good answers."""
        sent_id = b"" if isinstance(self.request, InvalidRequestError) else self.request.id
        return write_stream_error(status.message, sent_id)


def open_streamed(inference: Inference, data: bytes) -> StreamedInference:
    """One message of a stream; also bytes that are none, whose answer comes in order and needs no id."""
    try:
        request = open_request(data)
    except InvalidRequestError as error:
        # Kept without its frames, which hold the message.
        return StreamedInference(inference, error.with_traceback(None), None, 0)
    try:
        form = read_form(request.form)
    except RequestError:  # answered with it, in its turn
        return StreamedInference(inference, request, None, 1)
    rows = min(max(form.rows, 1), inference.pipeline.max_texts)
    return StreamedInference(inference, request, form, rows, in_order=not _in_pieces(inference, form))


def _in_pieces(inference: Inference, form: Form) -> bool:
    try:
        return inference.pipeline.find(form.model, form.version).signature.decoupled
    except RequestError:  # as above
        return False
