"""Baselines for a relay: a bare redirect, and dropping everything."""

import struct

from bcc import BPF

from tests.bench.frames import mac_bytes
from tests.bench.xdp import attach_xdp, compile_xdp
from tests.netns import Phone, Topology


class _Attached:
    """A program of redirect.c at the relay's interface that faces `source`. A context manager."""

    _name: bytes

    def __init__(self, topology: Topology, source: Phone, destination: Phone) -> None:
        macs = struct.unpack("=3I", mac_bytes(destination.mac) + mac_bytes(destination.gateway.mac))
        words = {f"MACS_{index}": word for index, word in enumerate(macs)}
        self._bpf = compile_xdp("redirect.c", EGRESS_IFINDEX=destination.gateway.ifindex, **words)
        program = self._bpf.load_func(self._name, BPF.XDP)
        self._detach = attach_xdp(topology.relay, source.gateway.ifindex, program.fd)

    def __enter__(self) -> "_Attached":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._detach()
        self._bpf.cleanup()


class BareRedirect(_Attached):
    """Redirects all frames from `source` to `destination` with fixed MAC addresses: the least a relay can do."""

    _name = b"forward"


class Drop(_Attached):
    """Drops all frames from `source`: what remains is the generator's own cost."""

    _name = b"drop"
