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
_NO_LIMIT = (1 << 64) - 1
_DEADLINE_S = 60.0
"""For what takes milliseconds on a machine that has nothing else to do."""


class Sent(NamedTuple):
    """Packets that the generator sent, and the seconds from the first to the last of them."""

    packets: int
    elapsed_s: float

    @property
    def rate(self) -> float:
        """Packets per second."""
        return (self.packets - 1) / self.elapsed_s if self.elapsed_s else 0.0


class Generator:
    """Sends RTP out of a phone's interface to its gateway, one packet of each stream in turn. A context manager.

    Streams differ in nothing but their ports. It works in a process of its own on core `cpu`, where all that the kernel
    does with its packets happens, too. The gateway's interface must run an XDP program or have GRO on, as Topology
    sees to.
    """

    def __init__(self, phone: Phone, streams: Sequence[StreamSpec], *, cpu: int = 0) -> None:
        self._phone = phone
        self._cpu = cpu
        self._process: subprocess.Popen | None = None
        self._limit_s = 0.0
        self.total = 0
        """Packets sent in all runs that are over."""
        self._frame_bytes = frame_bytes(streams[0].version)
        self._bpf = compile_generator(phone, streams, egress_ifindex=phone.ifindex)
        self._program = self._bpf.load_func(b"generate", BPF.XDP)

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def run(self, seconds: float, interval_ns: int = 0) -> Sent:
        """Send for `seconds`, a packet (of one stream or other) each `interval_ns`, or as fast as possible for 0."""
        self.start(seconds, interval_ns)
        return self.finish()

    def send(self, packets: int, interval_ns: int = 0) -> Sent:
        """Send so many packets, at the pace of `run`, however long it takes."""
        self._start(packets, _NO_LIMIT, interval_ns, packets * interval_ns / 1e9 + _DEADLINE_S)
        return self.finish()

    def start(self, seconds: float, interval_ns: int = 0) -> None:
        """As `run`, but return when sending has begun."""
        self._start(_NO_LIMIT, round(seconds * 1e9), interval_ns, seconds + _DEADLINE_S)

    def _start(self, packets: int, duration_ns: int, interval_ns: int, limit_s: float) -> None:
        if self._process:
            raise RuntimeError("the generator is running")
        self._limit_s = limit_s
        stamp_mask = 0 if interval_ns else _STAMP_EVERY_AT_FULL_SPEED - 1
        rows = self._bpf[b"run"]
        rows[0] = rows.Leaf(wanted=packets, duration_ns=duration_ns, interval_ns=interval_ns, stamp_mask=stamp_mask)
        # Frames leave batch by batch: a paced packet would wait for the runs after it, most of which send nothing.
        batch_size = 4 if interval_ns else 64
        args = [self._program.fd, self._frame_bytes, FILLER, self._cpu, batch_size, math.ceil(limit_s)]
        self._process = self._phone.popen(
            [sys.executable, "-m", "tests.bench.live", *args], pass_fds=[self._program.fd], cwd=_ROOT
        )
        wait_for(lambda: self._has_died() or self._progress.first_ns, _DEADLINE_S, "the generator's first packet")

    def finish(self) -> Sent:
        """Wait for the end of what `start` began."""
        wait_for(lambda: self._has_died() or self._is_done(), self._limit_s, "the generator to finish")
        self.stop()
        progress = self._progress
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


def compile_generator(phone: Phone, streams: Sequence[StreamSpec], *, egress_ifindex: int = 0) -> BPF:
    """Compile generator.c for streams that differ in their ports, and write their rows."""
    (version,) = {spec.version for spec in streams}
    ((src_ip, dst_ip),) = {(spec.src_ip, spec.dst_ip) for spec in streams}
    stamp_at = udp_offset(version) + STAMP_OFFSET
    bpf = compile_xdp(
        "generator.c",
        EGRESS_IFINDEX=egress_ifindex,
        STREAMS=len(streams),
        IP_BYTES=IP_BYTES[version],
        STAMP_OFFSET=stamp_at,
    )
    first = bpf[b"next"].Leaf()
    common = build_frame(phone, 0, StreamSpec(src_ip, 0, dst_ip, 0))
    first.header[:] = struct.unpack_from(f"={len(first.header)}Q", common)
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
