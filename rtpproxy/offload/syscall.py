"""bpf(2) and other kernel interfaces that Python has no call for; each function is one command."""

import contextlib
import ctypes
import errno
import os
import struct
from dataclasses import dataclass

from rtpproxy.errors import OffloadError

_NUMBERS = {"x86_64": 321}
"""The call's number by machine; only machines whose stores other processors see in order, as `maps` needs."""
_MAP_CREATE, _MAP_LOOKUP_ELEM, _MAP_UPDATE_ELEM, _MAP_DELETE_ELEM, _PROG_LOAD = 0, 1, 2, 3, 5
_PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD, _PROG_QUERY, _RAW_TRACEPOINT_OPEN, _LINK_CREATE = 13, 15, 16, 17, 28
_ATTACH_SK_LOOKUP, _ATTACH_TCX_INGRESS = 36, 46
_MAX_TCX_PROGRAMS = 64
_RINGBUF = 27
_PROG_NAME_OFFSET, _PROG_NAME_BYTES = 64, 16
_PROG_INFO_BYTES = 128
_MAP_INFO_BYTES = 64
_INSTRUCTION_BYTES = 8
_LOAD_ATTEMPTS = 5
_LOG_BYTES = 1 << 26

_libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attributes: bytes) -> int:
    """Call bpf(2). Raises OSError with the kernel's error number, and OffloadError on machines other than x86-64."""
    number = _NUMBERS.get(os.uname().machine)
    if number is None:
        raise OffloadError(f"only x86-64 is supported, and this machine is {os.uname().machine}")
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 64))
    result: int = _libc.syscall(number, command, buffer, len(buffer))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


@dataclass(frozen=True, slots=True)
class Map:
    """A map as the kernel makes it."""

    name: str
    """At most 15 characters."""
    kind: int
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int


def ring(size_bytes: int) -> Map:
    """Describe a ring buffer: a power of two, and no less than a page."""
    return Map("tee_ring", _RINGBUF, 0, 0, size_bytes, 0)


@dataclass(frozen=True, slots=True)
class Program:
    """A program as the kernel takes it."""

    kind: int
    attachment: int
    """Number of what it may be attached to; 0 where its kind says that."""
    code: bytes
    """Instructions; where they name a map, by its descriptor."""
    licence: str
    name: str
    """At most 15 characters."""


def make_map(described: Map, inner_fd: int = 0) -> int:
    """Make a map, and return its descriptor. Raises OSError.

    A map of maps takes only such as `inner_fd` is, of any size.
    """
    one = described
    numbers = one.kind, one.key_bytes, one.value_bytes, one.entries, one.flags
    return bpf(_MAP_CREATE, struct.pack("=6I4x16s", *numbers, inner_fd, _object_name(one.name)))


def describe_map(map_fd: int) -> Map:
    """Describe a map that we hold."""
    info = ctypes.create_string_buffer(_MAP_INFO_BYTES)
    bpf(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", map_fd, len(info), ctypes.addressof(info)))
    kind, key_bytes, value_bytes, entries, flags, name = struct.unpack_from("=I4x4I16s", info)
    return Map(name.partition(b"\0")[0].decode(), kind, key_bytes, value_bytes, entries, flags)


def load_program(program: Program) -> int:
    """Load a program, and return its descriptor. Raises OSError."""
    for _ in range(_LOAD_ATTEMPTS - 1):
        with contextlib.suppress(BlockingIOError):  # a signal came while the verifier was at work
            return _load_program(program)
    return _load_program(program)


def why_refused(program: Program) -> list[str]:
    """The lines that the verifier says of a program which it does not load."""
    said = ctypes.create_string_buffer(_LOG_BYTES)
    try:
        os.close(_load_program(program, said))
    except OSError:
        return said.value.decode(errors="replace").splitlines()
    return []


def _load_program(program: Program, said: "ctypes.Array[ctypes.c_char] | None" = None) -> int:
    code, licence = _buffer(program.code), ctypes.create_string_buffer(program.licence.encode())
    attributes = struct.pack(
        "=2I2Q2IQ2I16s2I",
        *(program.kind, len(code) // _INSTRUCTION_BYTES, ctypes.addressof(code), ctypes.addressof(licence)),
        *((1, len(said), ctypes.addressof(said)) if said else (0, 0, 0)),
        *(0, 0, _object_name(program.name), 0, program.attachment),
    )
    return bpf(_PROG_LOAD, attributes)


def _object_name(name: str) -> bytes:
    return name.encode()[: _PROG_NAME_BYTES - 1]


def map_read(map_fd: int, key: bytes, value_bytes: int) -> bytes:
    """The value under a key. For a per-CPU map `value_bytes` covers all possible CPUs."""
    value, key_buffer = ctypes.create_string_buffer(value_bytes), _buffer(key)
    bpf(
        _MAP_LOOKUP_ELEM,
        struct.pack("=I4xQQQ", map_fd, ctypes.addressof(key_buffer), ctypes.addressof(value), 0),
    )
    return value.raw


def map_write(map_fd: int, key: bytes, value: bytes) -> None:
    """Put a value under a key. A sockmap takes a socket's descriptor, and keeps the socket until it is closed."""
    key_buffer, value_buffer = _buffer(key), _buffer(value)
    bpf(
        _MAP_UPDATE_ELEM,
        struct.pack("=I4xQQQ", map_fd, ctypes.addressof(key_buffer), ctypes.addressof(value_buffer), 0),
    )


def map_delete(map_fd: int, key: bytes) -> None:
    """Take a key out of a map. Raises FileNotFoundError when it is not there."""
    key_buffer = _buffer(key)
    bpf(_MAP_DELETE_ELEM, struct.pack("=I4xQ16x", map_fd, ctypes.addressof(key_buffer)))


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, len(data))


def attach_sk_lookup(program_fd: int) -> int:
    """Attach to this process's network namespace; the attachment lives as long as the returned descriptor."""
    netns_fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return bpf(_LINK_CREATE, struct.pack("=IIII", program_fd, netns_fd, _ATTACH_SK_LOOKUP, 0))
    finally:
        os.close(netns_fd)


def attach_tracepoint(program_fd: int, name: str) -> int:
    """Attach to a tracepoint; the attachment lives as long as the returned descriptor."""
    name_buffer = ctypes.create_string_buffer(name.encode())
    return bpf(_RAW_TRACEPOINT_OPEN, struct.pack("=QI4x", ctypes.addressof(name_buffer), program_fd))


def program_name(program_id: int) -> str:
    """The name of a loaded program, at most 15 characters; empty when it is gone, has none, or cannot be looked at."""
    try:
        fd = bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", program_id, 0, 0))
    except OSError:
        return ""
    try:
        info = _program_info(fd)
    finally:
        os.close(fd)
    name = info[_PROG_NAME_OFFSET : _PROG_NAME_OFFSET + _PROG_NAME_BYTES]
    return name.partition(b"\0")[0].decode(errors="replace")


def program_id(program_fd: int) -> int:
    """The ID of a program that we hold; the kernel names attached programs by their IDs."""
    return int(struct.unpack_from("=I", _program_info(program_fd), 4)[0])


def tcx_programs(index: int) -> list[int]:
    """List the IDs of programs that tcx (Linux 6.6) runs on what arrives by an interface, before any TC filter."""
    numbers = (ctypes.c_uint32 * _MAX_TCX_PROGRAMS)()
    # Members of union bpf_attr from target_ifindex to count; what follows is 0.
    query = struct.pack("=4IQI36x", index, _ATTACH_TCX_INGRESS, 0, 0, ctypes.addressof(numbers), len(numbers))
    try:
        bpf(_PROG_QUERY, query)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENODEV):
            return []  # an older kernel, no program, or the interface is gone
        raise OffloadError(f"cannot ask for tcx programs: {error.strerror}") from error
    return [number for number in numbers if number]


def _program_info(program_fd: int) -> bytes:
    info = ctypes.create_string_buffer(_PROG_INFO_BYTES)
    bpf(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", program_fd, len(info), ctypes.addressof(info)))
    return info.raw


def possible_cpus() -> int:
    """Number of values that a per-CPU map holds for one key."""
    with open("/sys/devices/system/cpu/possible") as file:
        return int(file.read().strip().split(",")[-1].split("-")[-1]) + 1
