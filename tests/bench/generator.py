"""Generator, bare redirect and sink: the two ends of a measurement and the limit to compare a relay with.

All three are XDP programs, so that a core makes, passes and counts some ten million packets a second. Packets are RTP
over IPv4 or IPv6, as `frames` describes them.
"""

import math
import os
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy
from bcc import BPF
from pyroute2 import IPRoute

from tests.bench.frames import (
    FILLER,
    IP_BYTES,
    STAMP_OFFSET,
    UDP_BYTES,
    StreamSpec,
    build_frame,
    frame_bytes,
    mac_bytes,
    udp_offset,
    udp_sum,
)
from tests.netns import Host, Phone, Topology
from tests.waiting import wait_for

_HERE = Path(__file__).parent
_ROOT = _HERE.parent.parent
_KERNEL = _ROOT / "bpf" / "kernel"

_STAMP_EVERY_AT_FULL_SPEED = 64  # packets; reading the clock takes as long as half a relay

_BUCKETS = 16384
_BUCKET_SHIFT = 9
_XDP_FLAGS_DRV_MODE = 1 << 2


class Sent(NamedTuple):
    """How many packets the generator sent, and the seconds from the first to the last."""

    packets: int
    elapsed_s: float

    @property
    def rate(self) -> float:
        """Packets per second."""
        return (self.packets - 1) / self.elapsed_s if self.elapsed_s else 0.0


class Counts(NamedTuple):
    """What a sink saw since it was reset. `bytes` are of whole frames; `passed` are frames of others."""

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


class Generator:
    """Sends RTP out of a phone's interface to its gateway, stream after stream in turn. A context manager.

    All streams are of one family.
    It works in a process of its own on core `cpu`, where all that the kernel does with its packets happens, too.
    The gateway's interface must run an XDP program or have GRO on, as Topology sees to.
    """

    def __init__(self, phone: Phone, streams: Sequence[StreamSpec], *, cpu: int = 0) -> None:
        self._phone = phone
        self._cpu = cpu
        self._process: subprocess.Popen | None = None
        self.total = 0
        """Packets sent in all runs that are over."""
        (self._version,) = {spec.version for spec in streams}
        self._bpf = _compile(
            "generator.c",
            EGRESS_IFINDEX=phone.ifindex,
            STREAMS=len(streams),
            IP_BYTES=IP_BYTES[self._version],
            STAMP_OFFSET=udp_offset(self._version) + STAMP_OFFSET,
        )
        self._program = self._bpf.load_func(b"generate", BPF.XDP)
        for number, spec in enumerate(streams):
            self._write_stream(number, spec)

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def run(self, seconds: float, interval_ns: int = 0) -> Sent:
        """Send for `seconds`, a packet (of one stream or other) each `interval_ns`, or as fast as possible for 0."""
        self.start(seconds, interval_ns)
        return self.finish()

    def start(self, seconds: float, interval_ns: int = 0) -> None:
        """As `run`, but return when sending has begun."""
        if self._process:
            raise RuntimeError("the generator is running")
        self._seconds = seconds
        stamp_mask = 0 if interval_ns else _STAMP_EVERY_AT_FULL_SPEED - 1
        self._set(b"pace", duration_ns=round(seconds * 1e9), interval_ns=interval_ns, stamp_mask=stamp_mask)
        next_stream = self._bpf[b"progress"][0].next_stream
        self._set(b"progress", next_stream=next_stream)
        # Frames leave batch by batch: a paced packet would wait for the runs after it, most of which send nothing.
        batch_size = 4 if interval_ns else 64
        args = [self._program.fd, frame_bytes(self._version), FILLER, self._cpu, batch_size, math.ceil(seconds) + 10]
        self._process = self._phone.popen(
            [sys.executable, "-m", "tests.bench.live", *args], pass_fds=[self._program.fd], cwd=_ROOT
        )
        wait_for(lambda: self._has_died() or self._bpf[b"progress"][0].first_ns, 5.0, "the generator's first packet")

    def finish(self) -> Sent:
        """Wait for the end of what `start` began."""
        wait_for(
            lambda: self._has_died() or self._bpf[b"progress"][0].is_done,
            self._seconds + 5.0,
            "the generator to finish",
        )
        self.stop()
        progress = self._bpf[b"progress"][0]
        self.total += progress.sent
        return Sent(progress.sent, (progress.last_ns - progress.first_ns) / 1e9)

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Stop sending and unload."""
        self.stop()
        self._bpf.cleanup()

    def _has_died(self) -> bool:
        if self._process and self._process.poll() is not None:
            raise RuntimeError(f"the generator's process ended with {self._process.returncode}")
        return False

    def _set(self, table: bytes, **fields: int) -> None:
        self._bpf[table][0] = self._bpf[table].Leaf(**fields)

    def _write_stream(self, number: int, spec: StreamSpec) -> None:
        frame = build_frame(self._phone, number, spec)
        leaf = self._bpf[b"streams"].Leaf(sum=udp_sum(frame, spec.version), sequence=0)
        words = len(leaf.header)
        leaf.header[:] = struct.unpack(f"={words}Q", frame[: 8 * words])
        self._bpf[b"streams"][number] = leaf


class Sink:
    """Counts and drops, on a phone's interface, the packets of one family to UDP ports `first_port` to `last_port`.

    Checksums are verified of each `verify_every`-th packet (a power of two; 0: of none). A context manager.
    """

    def __init__(
        self, phone: Phone, first_port: int, last_port: int, *, version: int = 4, verify_every: int = 64
    ) -> None:
        self._bpf = _compile(
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
        """Middle of the histogram's bucket for each; all zero when nothing arrived."""
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


class BareRedirect:
    """Redirects all that the relay gets from `source` to `destination`: the limit. A context manager."""

    def __init__(self, topology: Topology, source: Phone, destination: Phone) -> None:
        macs = struct.unpack("=3I", mac_bytes(destination.mac) + mac_bytes(destination.gateway.mac))
        words = {f"MACS_{index}": word for index, word in enumerate(macs)}
        self._bpf = _compile("redirect.c", EGRESS_IFINDEX=destination.gateway.ifindex, **words)
        program = self._bpf.load_func(b"forward", BPF.XDP)
        self._detach = attach_xdp(topology.relay, source.gateway.ifindex, program.fd)

    def __enter__(self) -> "BareRedirect":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach and unload."""
        self._detach()
        self._bpf.cleanup()


def attach_xdp(host: Host, ifindex: int, prog_fd: int) -> Callable[[], None]:
    """Attach a program to the native XDP hook of an interface; returns what to call to detach it."""

    def set_program(fd: int) -> None:
        attributes = [("IFLA_XDP_FD", fd), ("IFLA_XDP_FLAGS", _XDP_FLAGS_DRV_MODE)]
        with IPRoute() as netlink:  # opens its socket in the namespace of the thread that first uses it
            netlink.link("set", index=ifindex, IFLA_XDP={"attrs": attributes})

    host.call(set_program, prog_fd)
    return lambda: host.call(set_program, -1)


def _compile(name: str, **defines: int | None) -> BPF:
    flags = [f"-D{key}={value}" for key, value in defines.items()]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    system = ["-isystem", "/usr/include", "-isystem", f"/usr/include/{multiarch}"]
    os.environ["BCC_KERNEL_SOURCE"] = str(_KERNEL)
    return BPF(src_file=str(_HERE / name).encode(), cflags=[*flags, *system])
