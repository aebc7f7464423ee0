"""The near end of a measurement: RTP over IPv4 or IPv6, made by an XDP program, millions of packets a second."""

import ctypes
import math
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bcc import BPF

from tests.bench.frames import FILLER, IP_BYTES, STAMP_OFFSET, StreamSpec, build_frame, frame_bytes, udp_offset, udp_sum
from tests.bench.xdp import compile_xdp
from tests.netns import Phone
from tests.waiting import wait_for

_ROOT = Path(__file__).parent.parent.parent

_STAMP_EVERY_AT_FULL_SPEED = 64  # packets; reading the clock takes as long as half a relay
_STAMP_EVERY_WITH_STEADY = 4  # no more than one of so many packets is a steady stream's
_NO_LIMIT = (1 << 64) - 1
NEVER_NS = _NO_LIMIT
"""As the interval of streams that are not steady: they send nothing."""
AT_ONCE_NS = 1
"""As the interval of steady streams, while the others send nothing: as fast as possible."""
_DEADLINE_S = 60.0
"""For what takes milliseconds on a machine that has nothing else to do."""
_LOOK_S = 0.02
"""Time between two looks whether a run is over: looking takes time of a core that others are measured on."""


class Sent(NamedTuple):
    """Packets that the generator sent, and the seconds from the first to the last of them."""

    packets: int
    elapsed_s: float
    steady_packets: int = 0
    """Of `packets`, those of steady streams."""

    @property
    def rate(self) -> float:
        """Packets per second."""
        return (self.packets - 1) / self.elapsed_s if self.elapsed_s else 0.0


class Generator:
    """Sends RTP out of a phone's interface to its gateway, one packet of each stream in turn. A context manager.

    Streams differ in nothing but their ports. The first `steady` of them have a turn and a pace of their own.

    It works in a process of its own on core `cpu`, where all that the kernel does with its packets happens, too. The
    gateway's interface must run an XDP program or have GRO on, as Topology sees to.
    """

    def __init__(self, phone: Phone, streams: Sequence[StreamSpec], *, cpu: int = 0, steady: int = 0) -> None:
        self._phone = phone
        self._cpu = cpu
        self._streams, self._steady = len(streams), steady
        self._process: subprocess.Popen | None = None
        self._limit_s = 0.0
        self.total = 0
        """Packets sent in all runs that are over."""
        self.steady_total = 0
        """Of these, packets of steady streams."""
        self._frame_bytes = frame_bytes(streams[0].version)
        self._bpf = compile_generator(phone, streams, egress_ifindex=phone.ifindex, steady=steady)
        self._program = self._bpf.load_func(b"generate", BPF.XDP)

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def run(self, seconds: float, interval_ns: int = 0, steady_interval_ns: int = 0) -> Sent:
        """Send for `seconds`, a packet (of one stream or other) each `interval_ns`, or as fast as possible for 0.

        Steady streams send one each `steady_interval_ns` beside that, or nothing for 0.
        """
        self.start(seconds, interval_ns, steady_interval_ns)
        return self.finish()

    def send(self, packets: int, interval_ns: int = 0, steady_interval_ns: int = 0) -> Sent:
        """Send so many packets, at the pace of `run`, however long it takes."""
        slowest_ns = steady_interval_ns if interval_ns == NEVER_NS else interval_ns
        self._start(packets, _NO_LIMIT, interval_ns, packets * slowest_ns / 1e9 + _DEADLINE_S, steady_interval_ns)
        return self.finish()

    def send_round(self, interval_ns: int) -> None:
        """Send a packet of each stream."""
        if self._streams > self._steady:
            self.send(self._streams - self._steady, interval_ns)
        if self._steady:
            self.send(self._steady, NEVER_NS, interval_ns)

    def start(self, seconds: float, interval_ns: int = 0, steady_interval_ns: int = 0) -> None:
        """As `run`, but return when sending has begun."""
        self._start(_NO_LIMIT, round(seconds * 1e9), interval_ns, seconds + _DEADLINE_S, steady_interval_ns)

    def _start(
        self, packets: int, duration_ns: int, interval_ns: int, limit_s: float, steady_interval_ns: int = 0
    ) -> None:
        if self._process:
            raise RuntimeError("the generator is running")
        self._limit_s = limit_s
        stamp_every = _STAMP_EVERY_WITH_STEADY if steady_interval_ns else _STAMP_EVERY_AT_FULL_SPEED
        rows = self._bpf[b"run"]
        rows[0] = rows.Leaf(
            wanted=packets,
            duration_ns=duration_ns,
            interval_ns=interval_ns,
            stamp_mask=0 if interval_ns else stamp_every - 1,
            steady_interval_ns=steady_interval_ns,
        )
        # Frames leave batch by batch: a paced packet would wait for the runs after it, most of which send nothing.
        batch_size = 4 if interval_ns and steady_interval_ns != AT_ONCE_NS else 64
        args = [self._program.fd, self._frame_bytes, FILLER, self._cpu, batch_size, math.ceil(limit_s)]
        self._process = self._phone.popen(
            [sys.executable, "-m", "tests.bench.live", *args], pass_fds=[self._program.fd], cwd=_ROOT
        )
        wait_for(lambda: self._has_died() or self._progress.first_ns, _DEADLINE_S, "the generator's first packet")

    def finish(self) -> Sent:
        """Wait for the end of what `start` began."""
        wait_for(lambda: self._has_died() or self._is_done(), self._limit_s, "the generator to finish", _LOOK_S)
        self.stop()
        progress = self._progress
        self.total += progress.sent
        self.steady_total += progress.steady_sent
        return Sent(progress.sent, (progress.last_ns - progress.first_ns) / 1e9, progress.steady_sent)

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

    @property
    def _progress(self) -> ctypes.Structure:
        return self._bpf[b"run"][0]

    def _is_done(self) -> bool:
        progress = self._progress
        return progress.sent >= progress.wanted

    def _has_died(self) -> bool:
        if self._process and self._process.poll() is not None:
            raise RuntimeError(f"the generator's process ended with {self._process.returncode}")
        return False


def compile_generator(phone: Phone, streams: Sequence[StreamSpec], *, egress_ifindex: int = 0, steady: int = 0) -> BPF:
    """Compile generator.c for streams that differ in their ports, `steady` of them steady, and write their rows."""
    (version,) = {spec.version for spec in streams}
    ((src_ip, dst_ip),) = {(spec.src_ip, spec.dst_ip) for spec in streams}
    stamp_at = udp_offset(version) + STAMP_OFFSET
    bpf = compile_xdp(
        "generator.c",
        EGRESS_IFINDEX=egress_ifindex,
        STREAMS=len(streams),
        STEADY=steady,
        IP_BYTES=IP_BYTES[version],
        STAMP_OFFSET=stamp_at,
    )
    first = bpf[b"next"].Leaf()
    common = build_frame(phone, 0, StreamSpec(src_ip, 0, dst_ip, 0))
    first.header[:] = struct.unpack_from(f"={len(first.header)}Q", common)
    bpf[b"next"][1] = first
    first.stream = steady
    bpf[b"next"][0] = first
    rows = bpf[b"streams"]
    leaves = (rows.Leaf * len(streams))()
    for number, spec in enumerate(streams):
        frame = build_frame(phone, number, spec)
        udp = udp_offset(version)
        (ports,) = struct.unpack_from("=I", frame, udp)
        (ssrc_low,) = struct.unpack_from("=H", frame, udp + 18)
        leaves[number] = rows.Leaf(ports=ports, ssrc_low=ssrc_low, sum=udp_sum(frame, version))
    rows.items_update_batch((rows.Key * len(streams))(*range(len(streams))), leaves)
    return bpf
