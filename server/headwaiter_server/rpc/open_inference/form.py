"""What a request says beside its elements and its id. Callers repeat it, and so it is kept."""

from __future__ import annotations

from functools import lru_cache

from headwaiter_proto.inference import grpc_service_pb2

from headwaiter_server.model.contract import Signature
from headwaiter_server.rpc.messages import parse
from headwaiter_server.rpc.open_inference.inputs import InputPlan, plan_inputs
from headwaiter_server.rpc.open_inference.outputs import OutputPlan, plan_outputs
from headwaiter_server.rpc.open_inference.parameters import read_parameters, read_version
from headwaiter_server.rpc.open_inference.wire import check_form

# Longer ones have elements in them.
_LONGEST_KEPT = 1024
_MOST_KEPT = 256


class Form:
    """What a request says beside its elements and its id; nobody alters it.

    Attributes:
        model: Name of the model; empty where the server holds just one.
        version: Its version; 0 for the highest.
        asked: What the parameters say.
        rows: First size of its inputs' shapes, the largest of them; as the sender says.
    """

    __slots__ = ("_message", "_plan", "_signature", "asked", "model", "rows", "version")

    def __init__(self, message: grpc_service_pb2.ModelInferRequest) -> None:
        """Read a message without elements.

        Raises:
            RequestError: It asks for what no model here does.
        """
        self._message = message
        self._signature: Signature | None = None
        self._plan: tuple[list[InputPlan], list[OutputPlan]] = [], []
        self.model = message.model_name
        self.version = read_version(message.model_version)
        self.asked = read_parameters(message.parameters)
        self.rows = max((tensor.shape[0] for tensor in message.inputs if tensor.shape), default=1)

    def plan(self, signature: Signature) -> tuple[list[InputPlan], list[OutputPlan]]:
        """What it sends to a model, and wants of it.

        Raises:
            InvalidRequestError: The model takes or gives no such thing.
        """
        if self._signature is not signature:
            self._plan = plan_inputs(self._message, signature), plan_outputs(self._message, signature)
            self._signature = signature
        return self._plan


def read_form(data: bytes) -> Form:
    """The form of a request.

    Raises:
        RequestError: It is none, or asks for what no model here does.
    """
    if len(data) <= _LONGEST_KEPT:
        return _kept_form(data)
    check_form(data)
    return _form(data)


def _form(data: bytes) -> Form:
    return Form(parse(grpc_service_pb2.ModelInferRequest, data))


_kept_form = lru_cache(_MOST_KEPT)(_form)
