"""Shared memory: its six methods, and tensors that lie in it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from headwaiter_proto.inference import grpc_service_pb2

from headwaiter_server.errors import InvalidRequestError, UnsupportedError
from headwaiter_server.rpc.crossing import Crossing
from headwaiter_server.rpc.edge import Method
from headwaiter_server.rpc.messages import parse
from headwaiter_server.rpc.open_inference.wire import Buffer
from headwaiter_server.scheduling.admission import Permit
from headwaiter_server.shared_memory import Part, Region, Regions

# Parameters of a tensor that lies in shared memory.
_REGION, _OFFSET, _SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"
# More is copied on a thread, so that the event loop is not held for it: this much takes some 0.1 ms.
_INLINE_BYTES = 1 << 20

Parameter = grpc_service_pb2.InferParameter


@dataclass(frozen=True, slots=True)
class Stretch:
    """Where a tensor lies in shared memory.

    Unregistering its region does not take it away.

    Attributes:
        part: The place.
    """

    part: Part

    @property
    def byte_size(self) -> int:
        """Bytes that the tensor has or, of an output, may have."""
        return self.part.byte_size

    async def read(self, permit: Permit) -> memoryview:
        """Copy an input, so that nobody can change it any more.

        Args:
            permit: Counts its bytes until the call is over.

        Raises:
            InvalidRequestError: It is not there any more, or larger than all calls together may be.
            QueueFullError: All calls together hold too much already.
        """
        permit.hold_bytes(self.byte_size, self.part.field)
        if self.byte_size > _INLINE_BYTES:
            return memoryview(await asyncio.to_thread(self.part.read))
        return memoryview(self.part.read())

    async def write(self, data: Buffer) -> None:
        """Copy an output there.

        Args:
            data: Its elements, contiguous.

        Raises:
            InvalidRequestError: It has more bytes than it may have, or the memory is not there any more.
        """
        content = memoryview(data)
        if content.nbytes > _INLINE_BYTES:
            await asyncio.to_thread(self.part.write, content)
        else:
            self.part.write(content)

    def describe(self, parameters: MutableMapping[str, Parameter]) -> None:
        """Say in an answer where the output lies.

        Args:
            parameters: Of the output's tensor.
        """
        parameters[_REGION].string_param = self.part.region.name
        parameters[_SIZE].int64_param = self.part.byte_size
        if self.part.offset:
            parameters[_OFFSET].int64_param = self.part.offset


class SharedMemory:
    """What the protocol does with shared memory of the system; and with a GPU's, which this server has not."""

    def __init__(self, regions: Regions | None) -> None:
        """Set up.

        Args:
            regions: The regions that clients register; None if they may not.
        """
        self._regions = regions

    @property
    def enabled(self) -> bool:
        """Whether clients may register shared memory."""
        return self._regions is not None

    def methods(self) -> dict[str, Method]:
        """The methods by their name."""
        return {
            "SystemSharedMemoryStatus": self.status,
            "SystemSharedMemoryRegister": self.register,
            "SystemSharedMemoryUnregister": self.unregister,
            "CudaSharedMemoryStatus": self.cuda_status,
            "CudaSharedMemoryRegister": self.cuda_register,
            "CudaSharedMemoryUnregister": self.cuda_unregister,
        }

    def stretch(self, parameters: Mapping[str, Parameter], field: str) -> Stretch | None:
        """Where a tensor lies in shared memory; None if it does not.

        Args:
            parameters: The tensor's.
            field: Its path in the request, for errors.

        Raises:
            InvalidRequestError: The parameters make no sense, or the region has no such part.
            UnknownRegionError: There is no such region.
            UnsupportedError: Shared memory is switched off.
        """
        if _REGION not in parameters:
            for name in (_SIZE, _OFFSET):
                if name in parameters:
                    raise InvalidRequestError(f"{field}.parameters[{name}]", f"means nothing without {_REGION}")
            return None
        regions = self._open(f"{field}.parameters[{_REGION}]")
        if parameters[_REGION].WhichOneof("parameter_choice") != "string_param":
            raise InvalidRequestError(f"{field}.parameters[{_REGION}]", "is no string_param")
        if _SIZE not in parameters:
            raise InvalidRequestError(f"{field}.parameters[{_SIZE}]", f"is missing, {_REGION} needs it")
        offset = _number(parameters, _OFFSET, field) if _OFFSET in parameters else 0
        name, size = parameters[_REGION].string_param, _number(parameters, _SIZE, field)
        return Stretch(regions.part(field, name, offset, size))

    async def status(self, data: bytes, _permit: Permit, _crossing: Crossing) -> bytes:
        """List the regions."""
        request = parse(grpc_service_pb2.SystemSharedMemoryStatusRequest, data)
        response = grpc_service_pb2.SystemSharedMemoryStatusResponse()
        for region in self._open("name").registered(request.name):
            _describe(region, response.regions[region.name])
        return response.SerializeToString()

    async def register(self, data: bytes, _permit: Permit, _crossing: Crossing) -> bytes:
        """Register a region."""
        request = parse(grpc_service_pb2.SystemSharedMemoryRegisterRequest, data)
        self._open("key").register(request.name, request.key, request.offset, request.byte_size)
        return grpc_service_pb2.SystemSharedMemoryRegisterResponse().SerializeToString()

    async def unregister(self, data: bytes, _permit: Permit, _crossing: Crossing) -> bytes:
        """Forget a region, or all."""
        request = parse(grpc_service_pb2.SystemSharedMemoryUnregisterRequest, data)
        self._open("name").unregister(request.name)
        return grpc_service_pb2.SystemSharedMemoryUnregisterResponse().SerializeToString()

    async def cuda_status(self, data: bytes, _permit: Permit, _crossing: Crossing) -> bytes:
        """List the regions of GPUs: none."""
        parse(grpc_service_pb2.CudaSharedMemoryStatusRequest, data)
        return grpc_service_pb2.CudaSharedMemoryStatusResponse().SerializeToString()

    async def cuda_register(self, data: bytes, _permit: Permit, _crossing: Crossing) -> bytes:
        """Refuse to register a region of a GPU."""
        parse(grpc_service_pb2.CudaSharedMemoryRegisterRequest, data)
        raise UnsupportedError("raw_handle", "is of a GPU's memory, and this server computes on processors")

    async def cuda_unregister(self, data: bytes, _permit: Permit, _crossing: Crossing) -> bytes:
        """Forget a region of a GPU, of which there is none: clients do so before they begin."""
        parse(grpc_service_pb2.CudaSharedMemoryUnregisterRequest, data)
        return grpc_service_pb2.CudaSharedMemoryUnregisterResponse().SerializeToString()

    def _open(self, field: str) -> Regions:
        """The regions.

        Raises:
            UnsupportedError: Shared memory is switched off.
        """
        if self._regions is None:
            raise UnsupportedError(field, "is about shared memory, which is switched off here; see --shared-memory")
        return self._regions


def _number(parameters: Mapping[str, Parameter], name: str, field: str) -> int:
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    if kind == "int64_param":
        return parameter.int64_param
    if kind == "uint64_param":
        return parameter.uint64_param
    raise InvalidRequestError(f"{field}.parameters[{name}]", "is no int64_param")


def _describe(region: Region, status: grpc_service_pb2.SystemSharedMemoryStatusResponse.RegionStatus) -> None:
    status.name, status.key, status.offset, status.byte_size = (
        region.name,
        region.key,
        region.offset,
        region.byte_size,
    )
