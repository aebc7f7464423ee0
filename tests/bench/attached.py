"""The program that a daemon attached, found as `bpftool` finds it."""

import json
import struct

from rtpproxy.offload.syscall import bpf
from tests.bench.relays import Subject

_PROG_GET_FD_BY_ID = 13


def attached_program(subject: Subject) -> int:
    """A descriptor of the XDP program at the relay's interface that faces the caller."""
    ifname = subject.topology.caller.gateway.ifname
    (link,) = json.loads(subject.topology.relay.run(["ip", "-json", "link", "show", "dev", ifname]).stdout)
    return bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", link["xdp"]["prog"]["id"], 0, 0))
