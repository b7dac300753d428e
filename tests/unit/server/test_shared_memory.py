"""Shared memory that clients register is read and written within its bounds, whatever they do to it meanwhile."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from headwaiter_proto.inference import grpc_service_pb2
from headwaiter_server.config import ServerSettings
from headwaiter_server.errors import (
    InvalidRequestError,
    QueueFullError,
    RegionExistsError,
    RequestError,
    TooManyRegionsError,
    UnknownRegionError,
    UnsupportedError,
)
from headwaiter_server.rpc.crossing import Crossing
from headwaiter_server.rpc.edge import Method
from headwaiter_server.rpc.open_inference.shared_memory import SharedMemory, Stretch
from headwaiter_server.scheduling.admission import Admission, Permit
from headwaiter_server.scheduling.calls import Terms
from headwaiter_server.shared_memory import Regions

Parameter = grpc_service_pb2.InferParameter
LARGE = 3 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of shared memory with one object of 64 bytes, 0 to 63."""
    shared = tmp_path / "shm"
    shared.mkdir()
    (shared / "object").write_bytes(bytes(range(64)))
    return shared


@pytest.fixture
def regions(folder: Path) -> Regions:
    """Regions of that folder."""
    return Regions(folder)


@pytest.fixture
def permit() -> Permit:
    """A permit with room for some bytes."""
    return Admission(max_calls=2, max_bytes=2 * LARGE).admit(100)


def parameters(**values: str | int | bool) -> dict[str, Parameter]:
    """A tensor's parameters, as clients send them."""
    made = {}
    for name, value in values.items():
        parameter = Parameter()
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int):
            parameter.int64_param = value
        else:
            parameter.string_param = value
        made[f"shared_memory_{name}"] = parameter
    return made


def stretch(regions: Regions, **values: str | int | bool) -> Stretch:
    found = SharedMemory(regions).stretch(parameters(**values), "inputs[a]")
    assert found is not None
    return found


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("key", ["object", "/object", "//object"])
async def test_tensor_is_read_where_it_lies(regions: Regions, permit: Permit, key: str) -> None:
    """Offsets count from the beginning of the region, which itself may begin anywhere; a slash before a key is none."""
    regions.register("r", key, 10, 20)
    data = await stretch(regions, region="r", offset=3, byte_size=4).read(permit)
    assert bytes(data) == bytes([13, 14, 15, 16])
    assert data.readonly


async def test_what_was_read_is_ours(regions: Regions, permit: Permit, folder: Path) -> None:
    """A client that writes into the memory later does not change what was read before."""
    regions.register("r", "object", 0, 64)
    data = await stretch(regions, region="r", byte_size=4).read(permit)
    (folder / "object").write_bytes(b"\xff" * 64)
    assert bytes(data) == bytes([0, 1, 2, 3])


async def test_output_is_written_where_it_belongs(regions: Regions, folder: Path) -> None:
    """Only the bytes of the output change, also where the client has left more room for it."""
    regions.register("r", "object", 8, 32)
    await stretch(regions, region="r", offset=4, byte_size=16).write(np.array([1, -1], np.int32).data)
    expected = bytearray(range(64))
    expected[12:20] = np.array([1, -1], np.int32).tobytes()
    assert (folder / "object").read_bytes() == bytes(expected)


@pytest.mark.parametrize(
    "content", [b"", np.zeros((0, 3), np.float32).data, np.zeros((2, 0)).data], ids=["bytes", "rows", "axis"]
)
async def test_output_without_elements_writes_nothing(
    regions: Regions, folder: Path, content: bytes | memoryview
) -> None:
    """An output may be empty."""
    regions.register("r", "object", 0, 64)
    await stretch(regions, region="r", byte_size=16).write(memoryview(content))
    assert (folder / "object").read_bytes() == bytes(range(64))


async def test_large_tensors_pass_whole(regions: Regions, permit: Permit, folder: Path) -> None:
    """Tensors that are copied on a thread are the same as small ones."""
    content = np.arange(LARGE // 8)
    (folder / "large").write_bytes(bytes(LARGE))
    regions.register("r", "large", 0, LARGE)
    place = stretch(regions, region="r", byte_size=LARGE)
    await place.write(content.data)
    assert np.array_equal(np.frombuffer(await place.read(permit), np.int64), content)


def test_answer_says_where_an_output_lies(regions: Regions) -> None:
    """Region, size and offset stand in the answer as they were asked for; an offset of 0 is left out."""
    regions.register("r", "object", 8, 32)
    for asked in (parameters(region="r", byte_size=16), parameters(region="r", byte_size=16, offset=4)):
        place = SharedMemory(regions).stretch(asked, "outputs[a]")
        assert place is not None
        tensor = grpc_service_pb2.ModelInferResponse.InferOutputTensor()
        place.describe(tensor.parameters)
        assert dict(tensor.parameters) == asked


async def test_memory_cut_short_is_an_error_of_the_tensor(regions: Regions, permit: Permit, folder: Path) -> None:
    """What was cut short after it had been registered fails the call that uses it, and nothing else."""
    regions.register("r", "object", 0, 64)
    place = stretch(regions, region="r", offset=16, byte_size=32)
    os.truncate(folder / "object", 40)
    with pytest.raises(InvalidRequestError, match=re.escape("inputs[a]: lies behind the end")):
        await place.read(permit)
    with pytest.raises(InvalidRequestError, match=re.escape("inputs[a]: lies behind the end")):
        await place.write(b"x" * 32)
    assert (folder / "object").stat().st_size == 40
    await place.write(b"x" * 24)
    assert bytes(await stretch(regions, region="r", offset=16, byte_size=24).read(permit)) == b"x" * 24


async def test_unregistering_does_not_take_memory_from_a_call(regions: Regions, permit: Permit, folder: Path) -> None:
    """A call that has found its tensor reads and writes it although the region, and the object's name, are gone."""
    regions.register("r", "object", 0, 64)
    place, before = stretch(regions, region="r", byte_size=4), open_files()
    regions.unregister("r")
    with (folder / "object").open("rb") as kept:
        (folder / "object").unlink()
        assert bytes(await place.read(permit)) == bytes([0, 1, 2, 3])
        await place.write(b"done")
        assert kept.read(4) == b"done"
    del place
    assert open_files() == before - 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"region": "r", "byte_size": 4, "offset": 33}, "inputs[a].parameters[shared_memory_offset]: is 33"),
        ({"region": "r", "byte_size": 4, "offset": -1}, "inputs[a].parameters[shared_memory_offset]: is -1"),
        ({"region": "r", "byte_size": 33}, "inputs[a].parameters[shared_memory_byte_size]: is 33 from offset 0 on"),
        ({"region": "r", "byte_size": 1, "offset": 32}, "inputs[a].parameters[shared_memory_byte_size]: is 1 from"),
        ({"region": "r", "byte_size": 1 << 62, "offset": 1}, "inputs[a].parameters[shared_memory_byte_size]"),
        ({"region": "r", "byte_size": -1}, "inputs[a].parameters[shared_memory_byte_size]: is -1"),
        ({"region": "r"}, "inputs[a].parameters[shared_memory_byte_size]: is missing"),
        ({"region": "r", "byte_size": "4"}, "inputs[a].parameters[shared_memory_byte_size]: is no int64_param"),
        ({"region": "r", "byte_size": 4, "offset": True}, "inputs[a].parameters[shared_memory_offset]: is no int64"),
        ({"region": 7, "byte_size": 4}, "inputs[a].parameters[shared_memory_region]: is no string_param"),
        ({"byte_size": 4}, "inputs[a].parameters[shared_memory_byte_size]: means nothing without"),
        ({"offset": 4}, "inputs[a].parameters[shared_memory_offset]: means nothing without"),
    ],
)
def test_place_outside_its_region_is_refused(
    regions: Regions, values: dict[str, str | int | bool], message: str
) -> None:
    """Offsets, sizes and their sums stay within the region, whatever numbers are sent; errors name the parameter."""
    regions.register("r", "object", 8, 32)
    with pytest.raises(InvalidRequestError, match=re.escape(message)):
        stretch(regions, **values)


def test_tensor_without_the_parameters_travels(regions: Regions) -> None:
    """Without a region a tensor is in the message, shared memory on or off."""
    for each in (regions, None):
        assert SharedMemory(each).stretch({}, "inputs[a]") is None


def test_unknown_region_is_not_found(regions: Regions) -> None:
    """Neither a tensor nor a question may name a region that nobody has registered."""
    with pytest.raises(UnknownRegionError, match="no shared memory region 'r' is registered"):
        stretch(regions, region="r", byte_size=4)
    with pytest.raises(UnknownRegionError):
        regions.registered("r")


def test_output_larger_than_its_place_is_refused(regions: Regions, folder: Path) -> None:
    """Nothing of it is written."""
    regions.register("r", "object", 0, 64)
    part = regions.part("outputs[a]", "r", 0, 4)
    with pytest.raises(
        InvalidRequestError, match=re.escape("outputs[a].parameters[shared_memory_byte_size]: is 4, the output has 5")
    ):
        part.write(b"12345")
    assert (folder / "object").read_bytes() == bytes(range(64))


async def test_bytes_read_count_until_the_call_is_over(regions: Regions, folder: Path) -> None:
    """Tensors in shared memory take as much of the server's memory as those in messages, and are bounded with them."""
    (folder / "large").write_bytes(bytes(200))
    regions.register("r", "large", 0, 200)
    admission = Admission(max_calls=3, max_bytes=150)
    place = stretch(regions, region="r", byte_size=80)
    with admission.admit(10) as first, admission.admit(10) as second:
        await place.read(first)
        with pytest.raises(QueueFullError):
            await place.read(second)
        with pytest.raises(InvalidRequestError, match=re.escape("inputs[a]: takes 141 bytes, the limit is 150")):
            await stretch(regions, region="r", byte_size=141).read(second)
    with admission.admit(10) as third:
        await place.read(third)


@pytest.mark.parametrize(
    "key",
    ["", "/", ".", "..", "../secret", "/../secret", "a/b", "shm/object", "x\0y", "sem.lock", "x" * 256, "ä" * 128],
)
def test_keys_are_plain_names(regions: Regions, folder: Path, key: str) -> None:
    """No key leads out of the folder of shared memory, and none to a semaphore."""
    (folder.parent / "secret").write_bytes(bytes(64))
    (folder / "sem.lock").write_bytes(bytes(64))
    with pytest.raises(InvalidRequestError, match=r"key: is .* expected the plain name"):
        regions.register("r", key, 0, 8)


def test_only_shared_memory_is_opened(regions: Regions, folder: Path) -> None:
    """Links, folders, pipes and what is not there are refused, at once and without being followed or waited for."""
    (folder.parent / "secret").write_bytes(bytes(64))
    (folder / "link").symlink_to(folder.parent / "secret")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    before = open_files()
    for key in ("link", "folder", "pipe", "missing"):
        with pytest.raises(InvalidRequestError, match=f"key: is '{key}', which"):
            regions.register("r", key, 0, 8)
    assert open_files() == before


@pytest.mark.parametrize(("offset", "size"), [(0, 65), (64, 1), (65, 1), (0, 0), (1 << 63, 8), (8, (1 << 64) - 1)])
def test_region_lies_within_its_object(regions: Regions, offset: int, size: int) -> None:
    """Whatever numbers a client sends, they are held to the object's real size."""
    with pytest.raises(InvalidRequestError, match=r"byte_size: is .* has 64 bytes"):
        regions.register("r", "object", offset, size)


def test_name_is_given_once(regions: Regions) -> None:
    """A name that is taken stays what it is until it is unregistered; regions may overlap."""
    regions.register("r", "object", 0, 8)
    with pytest.raises(RegionExistsError, match="'r' is registered already"):
        regions.register("r", "object", 8, 8)
    regions.register("other", "object", 4, 8)
    assert [(each.offset, each.byte_size) for each in regions.registered("")] == [(0, 8), (4, 8)]
    regions.unregister("r")
    regions.register("r", "object", 8, 8)


def test_names_have_an_end(regions: Regions) -> None:
    """A name is kept, so it may be neither empty, which would mean all, nor of any length."""
    for name in ("", "x" * 1025):
        with pytest.raises(InvalidRequestError, match="name: has"):
            regions.register(name, "object", 0, 8)


def test_regions_are_bounded(folder: Path) -> None:
    """Neither many regions nor much memory can be tied up; what is unregistered makes room."""
    regions = Regions(folder, most_regions=2)
    regions.register("a", "object", 0, 8)
    regions.register("b", "object", 0, 8)
    with pytest.raises(TooManyRegionsError, match="2 regions"):
        regions.register("c", "object", 0, 8)
    regions.unregister("a")
    regions.register("c", "object", 0, 8)
    regions = Regions(folder, most_bytes=100)
    regions.register("a", "object", 0, 64)
    with pytest.raises(TooManyRegionsError, match="64 bytes"):
        regions.register("b", "object", 0, 37)
    regions.register("b", "object", 0, 36)


def test_thousand_registrations_leave_nothing_behind(folder: Path) -> None:
    """Registering and unregistering, one by one or all at once, well or badly, leaves no file open."""
    regions, before = Regions(folder, most_regions=1000), open_files()
    for number in range(1000):
        regions.register(str(number), "object", 0, 8)
    assert open_files() == before + 1000
    with pytest.raises(TooManyRegionsError):
        regions.register("more", "object", 0, 8)
    for number in range(500):
        regions.unregister(str(number))
    assert open_files() == before + 500
    regions.unregister("")
    regions.unregister("")
    regions.unregister("never registered")
    assert open_files() == before
    assert regions.registered("") == []


@pytest.mark.parametrize(
    ("listen", "local"),
    [
        ("127.0.0.1:8001", True),
        ("127.8.9.1:8001,[::1]:8001,localhost:0,unix:/run/headwaiter.sock", True),
        ("127.0.0.1:8001,0.0.0.0:8001", False),
        ("[::]:8001", False),
        ("192.168.1.1:8001", False),
        ("headwaiter:8001", False),
    ],
)
def test_it_is_on_by_itself_where_nobody_else_reaches_the_server(listen: str, local: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """One listener that other machines may reach switches it off, unless it is asked for."""
    for mode, enabled in (("auto", local), ("on", True), ("off", False)):
        settings = ServerSettings(models=tmp_path, listen=[listen], shared_memory=mode)
        assert settings.shared_memory_enabled is enabled


async def ask(method: Method, request: grpc_service_pb2.SystemSharedMemoryStatusRequest | bytes) -> bytes:
    data = request if isinstance(request, bytes) else request.SerializeToString()
    with Admission(max_calls=1, max_bytes=1000).admit(len(data)) as permit:
        return await method(data, permit, Crossing(Terms(0.0)))


async def test_methods_speak_the_protocol(regions: Regions) -> None:
    """Register, status and unregister, of one region and of all."""
    methods = SharedMemory(regions).methods()
    for name in ("a", "b"):
        request = grpc_service_pb2.SystemSharedMemoryRegisterRequest(name=name, key="/object", offset=4, byte_size=8)
        await ask(methods["SystemSharedMemoryRegister"], request.SerializeToString())
    status = methods["SystemSharedMemoryStatus"]
    answer = grpc_service_pb2.SystemSharedMemoryStatusResponse.FromString(await ask(status, b""))
    assert set(answer.regions) == {"a", "b"}
    asked = grpc_service_pb2.SystemSharedMemoryStatusRequest(name="a")
    answer = grpc_service_pb2.SystemSharedMemoryStatusResponse.FromString(await ask(status, asked))
    region = answer.regions["a"]
    assert (set(answer.regions), region.name, region.key, region.offset, region.byte_size) == (
        {"a"}, "a", "/object", 4, 8,
    )  # fmt: skip
    unregister = methods["SystemSharedMemoryUnregister"]
    await ask(unregister, grpc_service_pb2.SystemSharedMemoryUnregisterRequest(name="a").SerializeToString())
    assert [each.name for each in regions.registered("")] == ["b"]
    await ask(unregister, b"")
    assert regions.registered("") == []


async def test_memory_of_gpus_is_refused_and_nothing_else_about_it(regions: Regions) -> None:
    """Clients that clean up before they begin are told that there is nothing; only registering is not supported."""
    for each in (regions, None):
        methods = SharedMemory(each).methods()
        assert await ask(methods["CudaSharedMemoryStatus"], b"") == b""
        assert await ask(methods["CudaSharedMemoryUnregister"], b"") == b""
        with pytest.raises(UnsupportedError):
            await ask(methods["CudaSharedMemoryRegister"], b"")


async def test_switched_off_is_said(regions: Regions) -> None:
    """With shared memory off every use of it is answered with what switches it on."""
    off = SharedMemory(None)
    assert SharedMemory(regions).enabled
    assert not off.enabled
    uses: list[RequestError] = []
    for name, method in off.methods().items():
        if name.startswith("System"):
            with pytest.raises(UnsupportedError, match="--shared-memory") as refused:
                await ask(method, b"")
            uses.append(refused.value)
    assert len(uses) == 3
    with pytest.raises(UnsupportedError, match=re.escape("inputs[a].parameters[shared_memory_region]: is about")):
        off.stretch(parameters(region="r", byte_size=4), "inputs[a]")
