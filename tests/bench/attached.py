"""The program that a daemon attached, and the maps that it uses: found as `bpftool` finds them."""

import ctypes
import json
import os
import struct
from contextlib import ExitStack

from rtpproxy.offload.syscall import bpf, describe_map
from tests.bench.relays import Subject

_PROG_GET_FD_BY_ID, _MAP_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD = 13, 14, 15
_PROGRAM_INFO_BYTES, _COUNT_OF_MAPS, _IDS_OF_MAPS = 128, 52, 56
"""Of struct bpf_prog_info: its size, and where it has `nr_map_ids` and `map_ids`."""
_MOST_MAPS = 64


def attached_program(subject: Subject, tier: str = "xdp") -> int:
    """A descriptor of the program, by `xdp` or `tc`, at the relay's interface that faces the caller."""
    ifname = subject.topology.caller.gateway.ifname
    if tier == "xdp":
        (link,) = json.loads(subject.topology.relay.run(["ip", "-json", "link", "show", "dev", ifname]).stdout)
        number = link["xdp"]["prog"]["id"]
    else:
        shown = subject.topology.relay.run(["tc", "-json", "filter", "show", "dev", ifname, "ingress"]).stdout
        (number,) = [one["options"]["prog"]["id"] for one in json.loads(shown) if "options" in one]
    return bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))


def maps_of(program_fd: int, stack: ExitStack) -> dict[str, int]:
    """Descriptors of the maps that a program uses, by name; `stack` closes them."""
    ids = (ctypes.c_uint32 * _MOST_MAPS)()
    info = ctypes.create_string_buffer(_PROGRAM_INFO_BYTES)
    struct.pack_into("=I", info, _COUNT_OF_MAPS, len(ids))
    struct.pack_into("=Q", info, _IDS_OF_MAPS, ctypes.addressof(ids))
    bpf(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", program_fd, len(info), ctypes.addressof(info)))
    (count,) = struct.unpack_from("=I", info, _COUNT_OF_MAPS)
    found = {}
    for number in ids[:count]:
        fd = bpf(_MAP_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))
        stack.callback(os.close, fd)
        found[describe_map(fd).name] = fd
    return found
