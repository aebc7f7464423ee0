"""The far end of a measurement: counts what arrives, and how old it is."""

import os
from typing import NamedTuple

import numpy
from bcc import BPF

from tests.bench.frames import IP_BYTES, STAMP_OFFSET, UDP_BYTES
from tests.bench.xdp import attach_xdp, compile_xdp
from tests.netns import Phone

_BUCKETS = 16384
_BUCKET_SHIFT = 9


class Counts(NamedTuple):
    """Packets that a sink has seen since it was reset. `bytes` are of whole frames; `passed` are frames of others."""

    packets: int
    bytes: int
    passed: int
    wrong_length: int
    verified: int
    bad_ip_checksum: int
    bad_udp_checksum: int


class Delays(NamedTuple):
    """Microseconds from generator to sink, to half a microsecond; 8.4 ms stands for all that is longer."""

    p50_us: float
    p99_us: float
    max_us: float


class Sink:
    """Counts and drops, on a phone's interface, the packets of one family to UDP ports `first_port` to `last_port`.

    Checksums are verified of each `verify_every`-th packet (a power of two; 0: of none). A context manager.
    """

    def __init__(
        self, phone: Phone, first_port: int, last_port: int, *, version: int = 4, verify_every: int = 64
    ) -> None:
        self._bpf = compile_xdp(
            "sink.c",
            FIRST_PORT=first_port,
            LAST_PORT=last_port,
            IP_BYTES=IP_BYTES[version],
            UDP_BYTES=UDP_BYTES,
            STAMP_OFFSET=STAMP_OFFSET,
            VERIFY_EVERY=verify_every,
            CPUS=os.cpu_count(),
            BUCKETS=_BUCKETS,
            BUCKET_SHIFT=_BUCKET_SHIFT,
        )
        self._detach = attach_xdp(phone, phone.ifindex, self._bpf.load_func(b"count", BPF.XDP).fd)

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def counts(self) -> Counts:
        """The totals of all cores."""
        rows = self._bpf[b"tallies"].values()
        return Counts(*(sum(getattr(row, name) for row in rows) for name in Counts._fields))

    def delays(self) -> Delays:
        """Median, 99th percentile and maximum, each the middle of its histogram bucket; zero when nothing arrived."""
        of_cores = [value for _, value in self._bpf[b"delays"].items_lookup_batch()]
        buckets = numpy.array(of_cores, dtype=numpy.uint64).reshape(-1, _BUCKETS).sum(axis=0)
        below = numpy.cumsum(buckets)
        if not below[-1]:
            return Delays(0.0, 0.0, 0.0)
        ranks = [numpy.searchsorted(below, float(below[-1]) * share) for share in (0.5, 0.99)]
        last = numpy.flatnonzero(buckets)[-1]
        width_us = (1 << _BUCKET_SHIFT) / 1000
        return Delays(*(round((int(rank) + 0.5) * width_us, 2) for rank in (*ranks, last)))

    def reset(self) -> None:
        """Forget everything; best while nothing arrives."""
        self._bpf[b"tallies"].clear()
        delays = self._bpf[b"delays"]
        size = len(delays)
        delays.items_update_batch((delays.Key * size)(*range(size)), (delays.Leaf * size)())

    def close(self) -> None:
        """Detach and unload."""
        self._detach()
        self._bpf.cleanup()
