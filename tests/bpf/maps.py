"""Reading the maps of a program that runs on an interface, from outside its process."""

import ctypes
import json
import os
import struct
import sys

from rtpproxy.offload.network_order import mapped_address
from rtpproxy.offload.syscall import bpf, map_read
from tests.netns import Host

_PROG_GET_FD_BY_ID, _MAP_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD = 13, 14, 15
_MAX_MAPS = 16


def attached_program(host: Host, ifname: str) -> int | None:
    """Number of the XDP program on an interface, None when there is none."""
    (link,) = json.loads(host.run(["ip", "-j", "-d", "link", "show", ifname]).stdout)
    return link["xdp"]["prog"]["id"] if "xdp" in link else None


class ProgramMaps:
    """The maps of a loaded program by name. A context manager."""

    def __init__(self, program_id: int) -> None:
        self._fds: dict[str, int] = {}
        program_fd = bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", program_id, 0, 0))
        try:
            numbers = (ctypes.c_uint32 * _MAX_MAPS)()
            info = bytearray(128)
            struct.pack_into("=IQ", info, 52, _MAX_MAPS, ctypes.addressof(numbers))
            count = struct.unpack_from("=I", _info(program_fd, info), 52)[0]
        finally:
            os.close(program_fd)
        for number in numbers[:count]:
            map_fd = bpf(_MAP_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))
            name = _info(map_fd, bytearray(80))[24:40].rstrip(b"\0").decode()
            self._fds[name] = map_fd

    def __enter__(self) -> "ProgramMaps":
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds.values():
            os.close(fd)

    def forwarded(self, row: int) -> int:
        """Packets that the kernel forwarded from the port of a row; the first member of its counters."""
        return int.from_bytes(map_read(self._fds["port_counters"], _number(row), 64)[:8], "little")

    def is_ours(self, host: str) -> bool:
        """True if the program takes an address for one of this host's."""
        try:
            map_read(self._fds["host_addresses"], mapped_address(host), 1)
        except FileNotFoundError:
            return False
        return True

    def used_rows(self) -> int:
        """Count the rows of the port table that are in use: something besides the sequence number is not zero."""
        used, row = 0, 0
        while True:
            try:
                content = map_read(self._fds["port_rows"], _number(row), 64)
            except OSError:  # beyond the last
                return used
            used += any(content[:4] + content[8:])
            row += 1


def _number(row: int) -> bytes:
    return row.to_bytes(4, sys.byteorder)


def _info(fd: int, info: bytearray) -> bytes:
    buffer = ctypes.create_string_buffer(bytes(info), len(info))
    bpf(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, len(info), ctypes.addressof(buffer)))
    return buffer.raw
