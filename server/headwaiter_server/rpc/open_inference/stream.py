"""`ModelStreamInfer`: inferences over one call, answered in order; what goes wrong with one is told in its answer."""

from __future__ import annotations

from dataclasses import dataclass

from headwaiter_server.errors import InvalidRequestError, RequestError
from headwaiter_server.rpc.crossing import Crossing
from headwaiter_server.rpc.open_inference.form import Form, read_form
from headwaiter_server.rpc.open_inference.infer import Inference
from headwaiter_server.rpc.open_inference.wire import InferRequest, open_request, write_stream_error
from headwaiter_server.rpc.status import Status
from headwaiter_server.scheduling.admission import Permit


@dataclass(slots=True)
class StreamedInference:
    """One message of a stream; implements `StreamMessage`.

    Attributes:
        inference: Who answers it.
        request: What to infer; or why that cannot be read.
        form: What it says; None if that cannot be answered.
        texts: See `StreamMessage`: as many rows as its inputs have, as far as it says so, and may say so.
    """

    inference: Inference
    request: InferRequest | InvalidRequestError
    form: Form | None
    texts: int

    async def answer(self, permit: Permit, crossing: Crossing) -> bytes:
        """See `StreamMessage`."""
        if isinstance(self.request, InvalidRequestError):
            raise self.request
        return await self.inference.answer(self.request, permit, crossing, streamed=True, form=self.form)

    def refuse(self, status: Status) -> bytes:
        """See `StreamMessage`. The id stands where clients look for it in good answers."""
        sent_id = b"" if isinstance(self.request, InvalidRequestError) else self.request.id
        return write_stream_error(status.message, sent_id)


def open_streamed(inference: Inference, data: bytes) -> StreamedInference:
    """One message of a stream; also bytes that are none, as answers come in order and need no id."""
    try:
        request = open_request(data)
    except InvalidRequestError as error:
        return StreamedInference(inference, error, None, 0)
    try:
        form = read_form(request.form)
    except RequestError:  # answered with it, in its turn
        return StreamedInference(inference, request, None, 1)
    return StreamedInference(inference, request, form, min(max(form.rows, 1), inference.pipeline.max_texts))
