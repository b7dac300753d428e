"""Shared memory of this machine that clients have registered, so that tensors need not travel.

It is read and written like a file, never mapped. Whoever else has it may cut it short or write into it at any moment: a
mapping would then end this process (SIGBUS), or change under what has been checked. So each tensor is copied once,
into memory of our own before it is looked at, and out of it when it is done. POSIX: shm_open, pread, pwrite.
"""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headwaiter_server.errors import (
    InvalidRequestError,
    RegionExistsError,
    TooManyRegionsError,
    UnknownRegionError,
)

# Where Linux keeps what shm_open opens.
_FOLDER = Path("/dev/shm")  # noqa: S108 - it is the place of shared memory, not of temporary files
# glibc keeps named semaphores there, too: whoever wrote into one would break its users.
_SEMAPHORES = "sem."
_LONGEST_KEY_BYTES = 255
_LONGEST_NAME = 1024
_MOST_REGIONS = 1024
# Memory that is registered stays in use although its client has gone.
_MOST_BYTES = 64 << 30


class Memory:
    """One object of shared memory, open for as long as anybody refers to it: a region, or a call that uses one."""

    __slots__ = ("_close", "_descriptor")

    def __init__(self, descriptor: int, close: Callable[[int], None] = os.close) -> None:
        """Take over a descriptor.

        Args:
            descriptor: Of the object, for reading and writing.
            close: Closes it.
        """
        self._descriptor = descriptor
        self._close = close

    def __del__(self) -> None:
        self._close(self._descriptor)

    @property
    def size(self) -> int:
        """Its size in bytes, now."""
        return os.fstat(self._descriptor).st_size

    @property
    def plain(self) -> bool:
        """Whether it is what shared memory is: a regular file."""
        return stat.S_ISREG(os.fstat(self._descriptor).st_mode)

    def read(self, offset: int, size: int) -> bytes:
        """A copy of a part; what is left of it, if the object is shorter."""
        data = os.pread(self._descriptor, size, offset)
        while len(data) < size and (more := os.pread(self._descriptor, size - len(data), offset + len(data))):
            data += more
        return data

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Put bytes into a part; a part that is no longer there comes back.

        Raises:
            OSError: There is no memory for it.
        """
        done, size = 0, memoryview(data).nbytes
        while done < size:
            left = memoryview(data).cast("B")[done:] if done else data
            done += os.pwrite(self._descriptor, left, offset + done)


@dataclass(frozen=True, slots=True)
class Region:
    """A part of an object of shared memory that goes by a name.

    Attributes:
        name: The name.
        key: The object's, as the client gave it.
        offset: Where the region begins in it, in bytes.
        byte_size: Its length.
        memory: The object.
    """

    name: str
    key: str
    offset: int
    byte_size: int
    memory: Memory


@dataclass(frozen=True, slots=True)
class Part:
    """Where one tensor lies in a region. It stays usable when the region is unregistered meanwhile.

    Attributes:
        field: The tensor's path in the request, for errors.
        region: The region.
        offset: Where the tensor begins in it, in bytes.
        byte_size: How many bytes it has, or may have.
    """

    field: str
    region: Region
    offset: int
    byte_size: int

    def read(self) -> bytes:
        """A copy of it.

        Raises:
            InvalidRequestError: The shared memory was cut short after it had been registered.
        """
        data = self.region.memory.read(self.region.offset + self.offset, self.byte_size)
        if len(data) < self.byte_size:
            raise self._cut_short()
        return data

    def write(self, data: bytes | memoryview) -> None:
        """Put a tensor there.

        Args:
            data: Its bytes, contiguous.

        Raises:
            InvalidRequestError: It has more bytes than there is room for, or the memory is not there any more.
        """
        size = memoryview(data).nbytes
        if size > self.byte_size:
            raise InvalidRequestError(
                f"{self.field}.parameters[shared_memory_byte_size]",
                f"is {self.byte_size}, the output has {size} bytes",
            )
        start = self.region.offset + self.offset
        if self.region.memory.size < start + size:
            raise self._cut_short()
        try:
            self.region.memory.write(start, data)
        except OSError as error:
            raise InvalidRequestError(
                self.field, f"cannot be written to region {self.region.name!r}: {error.strerror}"
            ) from error

    def _cut_short(self) -> InvalidRequestError:
        return InvalidRequestError(
            self.field, f"lies behind the end of the shared memory of region {self.region.name!r}, which was cut short"
        )


class Regions:
    """The regions that clients have registered, by name."""

    def __init__(self, folder: Path = _FOLDER, most_regions: int | None = None, most_bytes: int = _MOST_BYTES) -> None:
        """Begin with none.

        Args:
            folder: Where shared memory is found.
            most_regions: Most regions at one time; if not given, 1024 or, if that is fewer, an eighth of the files that
                the process may have open: connections may take three quarters.
            most_bytes: Most bytes of all of them.
        """
        self._folder = folder
        self._most_regions = most_regions or min(_MOST_REGIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8)
        self._most_bytes = most_bytes
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Give a name to a part of an object of shared memory.

        Args:
            name: The name.
            key: The object's.
            offset: Where the part begins, in bytes.
            byte_size: Its length.

        Raises:
            InvalidRequestError: There is no such object, or no such part of it.
            RegionExistsError: The name is taken.
            TooManyRegionsError: There is no room for another.
        """
        if not name or len(name) > _LONGEST_NAME:
            raise InvalidRequestError("name", f"has {len(name)} characters, expected 1 to {_LONGEST_NAME}")
        if name in self._regions:
            raise RegionExistsError(f"shared memory region {name[:100]!r} is registered already")
        if len(self._regions) >= self._most_regions:
            raise TooManyRegionsError(f"{self._most_regions} regions of shared memory are registered already")
        memory = _open(self._folder / _file_name(key), key)
        if not 1 <= byte_size <= memory.size - offset:
            raise InvalidRequestError(
                "byte_size",
                f"is {byte_size} from offset {offset} on, the shared memory {key!r} has {memory.size} bytes",
            )
        if self.total_bytes + byte_size > self._most_bytes:
            raise TooManyRegionsError(
                f"{self.total_bytes} bytes of shared memory are registered already, the limit is {self._most_bytes}"
            )
        self._regions[name] = Region(name, key, offset, byte_size, memory)

    @property
    def total_bytes(self) -> int:
        """Bytes of all regions."""
        return sum(region.byte_size for region in self._regions.values())

    def unregister(self, name: str) -> None:
        """Forget a region, or all if no name is given. That there is none is no error."""
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def registered(self, name: str) -> list[Region]:
        """One region, or all if no name is given.

        Raises:
            UnknownRegionError: There is none of this name.
        """
        return [self._find(name)] if name else list(self._regions.values())

    def part(self, field: str, name: str, offset: int, byte_size: int) -> Part:
        """A part of a region.

        Args:
            field: The path, in the request, of the tensor that lies there.
            name: The region's.
            offset: Where the part begins in the region, in bytes.
            byte_size: Its length.

        Raises:
            UnknownRegionError: There is no region of this name.
            InvalidRequestError: It has no such part.
        """
        region = self._find(name)
        if not 0 <= offset <= region.byte_size:
            raise InvalidRequestError(
                f"{field}.parameters[shared_memory_offset]",
                f"is {offset}, region {name!r} has {region.byte_size} bytes",
            )
        if not 0 <= byte_size <= region.byte_size - offset:
            raise InvalidRequestError(
                f"{field}.parameters[shared_memory_byte_size]",
                f"is {byte_size} from offset {offset} on, region {name!r} has {region.byte_size} bytes",
            )
        return Part(field, region, offset, byte_size)

    def _find(self, name: str) -> Region:
        region = self._regions.get(name)
        if region is None:
            raise UnknownRegionError(f"no shared memory region {name[:100]!r} is registered")
        return region


def _file_name(key: str) -> str:
    """The name of an object's file: a plain one, as by POSIX a key is, with or without a slash before it.

    Raises:
        InvalidRequestError: The key is something else.
    """
    name = key.lstrip("/")
    plain = name not in {"", ".", ".."} and "/" not in name and "\0" not in name
    if not plain or len(name.encode()) > _LONGEST_KEY_BYTES or name.startswith(_SEMAPHORES):
        raise InvalidRequestError("key", f"is {key[:100]!r}, expected the plain name of an object of shared memory")
    return name


def _open(path: Path, key: str) -> Memory:
    """Open an object of shared memory.

    Raises:
        InvalidRequestError: It is none, or cannot be opened.
    """
    try:
        # A pipe must not be waited for.
        memory = Memory(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise InvalidRequestError("key", f"is {key!r}, which cannot be opened: {error.strerror}") from error
    if not memory.plain:
        raise InvalidRequestError("key", f"is {key!r}, which is no shared memory")
    return memory
