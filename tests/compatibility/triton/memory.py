"""Tensors in system shared memory, by the client's own module for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import serialize_byte_tensor, shared_memory

from .checks import Array, Server, connected, expect, refused, shows, tensor

SIZE = 4096


@contextmanager
def region(client: InferenceServerClient, name: str, size: int = SIZE) -> Iterator[Any]:
    """A region of shared memory that the server knows by this name."""
    key = f"/headwaiter-{os.getpid()}-{name}"
    handle = shared_memory.create_shared_memory_region(name, key, size)
    try:
        client.register_system_shared_memory(name, key, size)
        yield handle
    finally:
        client.unregister_system_shared_memory(name)
        shared_memory.destroy_shared_memory_region(handle)


def placed(name: str, values: Array, where: str, offset: int = 0, datatype: str = "FP32") -> InferInput:
    """An input that lies in a region."""
    made = InferInput(name, list(values.shape), datatype)
    made.set_shared_memory(where, values.nbytes, offset)
    return made


def wanted(name: str, where: str, size: int, offset: int = 0) -> InferRequestedOutput:
    """An output that is to be laid into a region."""
    made = InferRequestedOutput(name)
    made.set_shared_memory(where, size, offset)
    return made


@shows("SystemSharedMemoryRegister", "SystemSharedMemoryUnregister", "ModelInfer", "system shared memory")
def check_inputs_and_outputs(server: Server) -> str:
    """Inputs and outputs in shared memory, at offsets, and both in the same region."""
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    with connected(server) as client, region(client, "in") as source, region(client, "out") as target:
        for offset in (0, 64):
            shared_memory.set_shared_memory_region(source, [values + offset], offset=offset)
            given = [placed("X", values, "in", offset)]
            np.testing.assert_array_equal(client.infer("times", given).as_numpy("Y"), 2 * (values + offset))
            answer = client.infer("times", given, outputs=[wanted("Y", "out", values.nbytes, offset)])
            got = shared_memory.get_contents_as_numpy(target, np.float32, [3, 4], offset=offset)
            np.testing.assert_array_equal(got, 2 * (values + offset))
            assert answer.get_output("Y").parameters["shared_memory_region"].string_param == "out"
        client.infer("times", [placed("X", values, "in")], outputs=[wanted("Y", "in", values.nbytes, 1024)])
        got = shared_memory.get_contents_as_numpy(source, np.float32, [3, 4], offset=1024)
        np.testing.assert_array_equal(got, 2 * values)
        del got
    return f"FP32 {list(values.shape)} in and out, offsets 0 and 64"


@shows("ModelInfer", "system shared memory")
def check_mixed(server: Server) -> str:
    """One input of two in shared memory, one output of two: the others travel in the message."""
    left, right = np.arange(32, dtype=np.int32).reshape(2, 16), np.full((2, 16), 3, dtype=np.int32)
    with connected(server) as client, region(client, "mixed") as memory:
        shared_memory.set_shared_memory_region(memory, [left])
        inputs = [placed("INPUT0", left, "mixed", datatype="INT32"), tensor("INPUT1", right)]
        asked = [wanted("OUTPUT0", "mixed", left.nbytes, 1024), InferRequestedOutput("OUTPUT1")]
        answer = client.infer("simple", inputs, outputs=asked)
        np.testing.assert_array_equal(answer.as_numpy("OUTPUT1"), left - right)
        got = shared_memory.get_contents_as_numpy(memory, np.int32, [2, 16], offset=1024)
        np.testing.assert_array_equal(got, left + right)
        del got
    return "one of two inputs and outputs in shared memory"


@shows("ModelInfer", "system shared memory")
def check_texts(server: Server) -> str:
    """Texts in shared memory in, a vector and texts in shared memory out."""
    written = serialize_byte_tensor(np.array([[b"waiter"]], dtype=np.object_))
    with connected(server) as client, region(client, "texts") as memory:
        shared_memory.set_shared_memory_region(memory, [written])
        given = InferInput("text", [1, 1], "BYTES")
        given.set_shared_memory("texts", len(written.item()))
        client.infer("minilm", [given], outputs=[wanted("embedding", "texts", 4 * 384, 1024)])
        vector = shared_memory.get_contents_as_numpy(memory, np.float32, [1, 384], offset=1024).copy()
        client.infer("pronounce", [given], outputs=[wanted("text", "texts", 1024, 1024)])
        answer = shared_memory.get_contents_as_numpy(memory, np.object_, [1, 1], offset=1024).copy()
        assert answer[0, 0] == client.infer("pronounce", [given]).as_numpy("text")[0, 0]
    np.testing.assert_allclose(np.linalg.norm(vector), 1, atol=1e-5)
    return f"BYTES in, FP32 and BYTES out: {answer[0, 0].decode()!r}"


@shows("ModelStreamInfer", "system shared memory")
def check_stream(server: Server) -> str:
    """Shared memory by way of a stream."""
    values, results = np.ones((2, 2), dtype=np.float32), list[Any]()
    with connected(server) as client, region(client, "stream") as memory:
        shared_memory.set_shared_memory_region(memory, [values])
        client.start_stream(lambda result, error: results.append((result, error)))
        asked = [wanted("Y", "stream", values.nbytes, 512)]
        client.async_stream_infer("times", [placed("X", values, "stream")], outputs=asked)
        client.stop_stream()
        got = shared_memory.get_contents_as_numpy(memory, np.float32, [2, 2], offset=512)
        np.testing.assert_array_equal(got, 2 * values)
        del got
    assert [error for _, error in results] == [None]
    return "FP32 [2, 2] in and out"


@shows("SystemSharedMemoryStatus", "system shared memory")
def check_status(server: Server) -> str:
    """What is registered, all of it and one by name; gone when it was unregistered."""
    with connected(server) as client:
        with region(client, "first"), region(client, "second", 2 * SIZE):
            everything = client.get_system_shared_memory_status(as_json=True)["regions"]
            one = client.get_system_shared_memory_status("second", as_json=True)["regions"]
            nobody = refused(client.get_system_shared_memory_status, "third")
        left = client.get_system_shared_memory_status(as_json=True).get("regions", {})
    assert {"first", "second"} <= set(everything)
    assert set(one) == {"second"}
    assert int(one["second"]["byte_size"]) == 2 * SIZE
    assert not {"first", "second"} & set(left)
    expect(nobody, "NOT_FOUND", "third")
    return f"{one['second']['name']}: {one['second']['byte_size']} bytes"


@shows("SystemSharedMemoryRegister", "SystemSharedMemoryUnregister", "errors", "system shared memory")
def check_errors(server: Server) -> str:
    """A key that nobody made, a path in its place, a name that is taken; regions that are unknown or too small."""
    values = np.ones((64, 64), dtype=np.float32)
    with connected(server) as client:
        register = partial(refused, client.register_system_shared_memory)
        expect(register("none", f"/headwaiter-{os.getpid()}-none", 64), "INVALID_ARGUMENT", "key")
        expect(register("path", "/../../etc/passwd", 64), "INVALID_ARGUMENT", "key")
        expect(refused(client.infer, "times", [placed("X", values, "unknown")]), "NOT_FOUND", "unknown")
        with region(client, "small"):
            key = f"/headwaiter-{os.getpid()}-small"
            taken = register("small", key, SIZE)
            expect(register("beyond", key, 1 << 20), "INVALID_ARGUMENT")
            expect(refused(client.infer, "times", [placed("X", values, "small")]), "INVALID_ARGUMENT")
            asked = [wanted("Y", "small", 16)]
            few = refused(client.infer, "times", [tensor("X", values)], outputs=asked)
            expect(few, "INVALID_ARGUMENT", "Y")
            client.unregister_system_shared_memory("small")
            expect(refused(client.infer, "times", [placed("X", values, "small")]), "NOT_FOUND", "small")
        client.unregister_system_shared_memory("never registered")
    return expect(taken, "ALREADY_EXISTS", "small")


@shows("SystemSharedMemoryUnregister", "system shared memory")
def check_unregister_all(server: Server) -> str:
    """Without a name everything is unregistered."""
    with connected(server) as client, region(client, "one"), region(client, "two"):
        client.unregister_system_shared_memory()
        assert client.get_system_shared_memory_status(as_json=True).get("regions", {}) == {}
    return "no regions left"


@shows("CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister")
def check_cuda(server: Server) -> str:
    """There is none on a processor: registering says so, the rest is empty and good."""
    with connected(server) as client:
        assert client.get_cuda_shared_memory_status(as_json=True).get("regions", {}) == {}
        client.unregister_cuda_shared_memory()
        error = refused(client.register_cuda_shared_memory, "cuda", b"AAAA", 0, 64)
    return expect(error, "UNIMPLEMENTED")
