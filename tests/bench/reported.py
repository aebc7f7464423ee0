"""RTCP of many calls that goes to a collector by HEP: what that costs the relay and the process that reports.

Relays with and without a collector run in turn, and every report is counted at the collector.
"""

import os
import socket
import statistics
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.plan import Plan
from tests.bench.progress import say
from tests.bench.relays import DEADLINE_S, GENERATOR_CPU, Subject, caller_port, relayed, told
from tests.bench.runs import MeasuringError, quartiles, settle
from tests.netns import Phone
from tests.netns_call.call import sent_frame
from tests.rtp.rtcp_packets import block, chunk, description, sender_report
from tests.waiting import wait_for

Result = dict[str, Any]
_COLLECTOR = "10.0.2.2", 9060
"""On the callee's host."""
_WAYS = "none", "udp", "tcp"
_TURN_S = 0.01
_LEARN_ROUNDS, _LEARN_RATE = 20, 2000
_BUFFER_BYTES = 64 << 20
_SO_RCVBUFFORCE = 33
_UDP_OFFSET = 14 + 20
_RTCP = sender_report(block()) + description(chunk(0x11111111, (1, b"c1f0a9b2@10.0.1.2"), (6, b"phone 1.0")))
_HEP_HEADER = struct.Struct(">4sH")


class _Shares(NamedTuple):
    """Of a core."""

    relay: float
    process: float


class _Collector:
    """Counts the reports that come. It is read by whoever sends, beside that."""

    def __init__(self, phone: Phone, way: str) -> None:
        kind = socket.SOCK_STREAM if way == "tcp" else socket.SOCK_DGRAM
        self._socket = phone.socket(kind=kind)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.bind(_COLLECTOR)
        self._socket.setblocking(False)
        self._connection = self._socket
        if way == "tcp":
            self._socket.listen()
            self._connection = None
        self._rest = b""
        self.reports = 0

    def close(self) -> None:
        for one in {self._socket, self._connection} - {None}:
            one.close()

    def read(self) -> int:
        """Take what has come; all reports so far."""
        try:
            if self._connection is None:
                self._connection, _ = self._socket.accept()
                self._connection.setblocking(False)
            while data := self._connection.recv(1 << 20):
                self._count(data)
        except BlockingIOError:
            pass
        return self.reports

    def _count(self, data: bytes) -> None:
        data, at = self._rest + data, 0
        while len(data) - at >= _HEP_HEADER.size:
            magic, size = _HEP_HEADER.unpack_from(data, at)
            if magic != b"HEP3":
                raise MeasuringError("what comes to the collector is no HEP")
            if len(data) - at < size:
                break
            at += size
            self.reports += 1
        self._rest = data[at:]


class _Reporting(NamedTuple):
    """A relay, the RTCP of its callers as frames, and the collector, if it reports."""

    subject: Subject
    frames: list[bytes]
    collector: _Collector | None


def measure_reported(plan: Plan) -> Result:
    """Processor time of relay and process while the RTCP of all calls is reported, or not, in turn."""
    calls = max(plan.sizes)
    shares: dict[str, list[_Shares]] = {way: [] for way in _WAYS}
    reports = dict.fromkeys(_WAYS, 0)
    before = os.sched_getaffinity(0)
    with ExitStack() as stack:
        relays = {way: stack.enter_context(_reporting(calls, way)) for way in _WAYS}
        os.sched_setaffinity(0, {GENERATOR_CPU})
        stack.callback(os.sched_setaffinity, 0, before)
        for number in range(plan.reported_rounds):
            say(f"RTCP to a collector: round {number + 1} of {plan.reported_rounds}")
            for way in _WAYS if number % 2 else reversed(_WAYS):
                shares[way].append(_run(relays[way], plan))
        for way, one in relays.items():
            reports[way] = _check(one, way)
    return {
        "calls": calls,
        "packets_per_s": plan.reported_rate,
        "rounds": plan.reported_rounds,
        "seconds": plan.reported_s,
        "ways": [{"way": way, "reports": reports[way], **_median(shares[way], plan)} for way in _WAYS],
    }


@contextmanager
def _reporting(calls: int, way: str) -> Iterator[_Reporting]:
    """The daemon with all calls in the kernel, RTCP too, and every report of the beginning at the collector."""
    say(f"{calls:,} calls: setting up a relay, RTCP to a collector by {way}")
    options = () if way == "none" else ("--hep", f"{way}:{_COLLECTOR[0]}:{_COLLECTOR[1]}")
    with ExitStack() as stack:
        subject = stack.enter_context(relayed(calls, "--offload", "xdp", *options))
        frames = _frames(subject)
        collector = None
        if way != "none":
            collector = _Collector(subject.topology.callee, way)
            stack.callback(collector.close)
        reporting = _Reporting(subject, frames, collector)
        _learn(reporting, calls + len(frames))
        yield reporting


def _learn(reporting: _Reporting, streams: int) -> None:
    """Send packets of all streams to learn from, until the kernel has so many. Userspace drops some if it is busy."""
    count = len(reporting.frames)
    for _ in range(_LEARN_ROUNDS):
        _send(reporting, count, count / _LEARN_RATE)
        if settle(lambda: told(reporting.subject).get("streams by XDP", 0), streams) == streams:
            break
    else:
        raise MeasuringError(f"the kernel has not all of {streams:,} streams, after {_LEARN_ROUNDS} rounds of packets")
    if reporting.collector is not None:
        settle(reporting.collector.read, _LEARN_ROUNDS * count)


def _frames(subject: Subject) -> list[bytes]:
    """One packet of RTCP from each caller but the last, whose callee's port the sink does not count."""
    topology = subject.topology
    frames = []
    for number, stream in enumerate(subject.streams[:-1]):
        source, to = (stream.src_ip, caller_port(number) + 1), (stream.dst_ip, stream.dst_port + 1)
        frames.append(
            _readdressed(frames[0], source[1], to[1]) if frames else sent_frame(topology.caller, source, to, _RTCP)
        )
    return frames


def _readdressed(frame: bytes, source_port: int, to_port: int) -> bytes:
    """The same from and to other ports; the checksum is updated (RFC 1624)."""
    old = struct.unpack_from("!HHHH", frame, _UDP_OFFSET)
    checksum = 0xFFFF - (0xFFFF - old[3] + 2 * 0xFFFF - old[0] - old[1] + source_port + to_port) % 0xFFFF
    ports = struct.pack("!HHHH", source_port, to_port, old[2], checksum)
    return frame[:_UDP_OFFSET] + ports + frame[_UDP_OFFSET + 8 :]


def _send(reporting: _Reporting, packets: int, seconds: float) -> float:
    """Send so many packets, one of each stream in turn, evenly over some time; returns how long it took."""
    subject, frames, collector = reporting
    caller = subject.topology.caller
    with caller.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((caller.ifname, 0))
        sent, began = 0, time.monotonic()
        while sent < packets:
            due = min(packets, int((time.monotonic() - began) / seconds * packets) + 1)
            for number in range(sent, due):
                out.send(frames[number % len(frames)])
            sent = due
            if collector is not None:
                collector.read()
            time.sleep(_TURN_S)
        return time.monotonic() - began


def _run(reporting: _Reporting, plan: Plan) -> _Shares:
    """Send for some seconds; every packet must be relayed and reported."""
    subject, _, collector = reporting
    assert subject.sink is not None
    assert subject.relay is not None
    packets = round(plan.reported_rate * plan.reported_s)
    subject.sink.reset()
    reported = 0 if collector is None else collector.read()
    pid = subject.relay.process.pid
    before = _times_ns(pid)
    began = time.monotonic()
    _send(reporting, packets, plan.reported_s)
    if collector is not None:
        arrived = settle(collector.read, reported + packets) - reported
        if arrived != packets:
            raise MeasuringError(f"of {packets:,} reports {arrived:,} arrived at the collector")
    elapsed_s = time.monotonic() - began
    after = _times_ns(pid)
    relayed_packets = settle(lambda: subject.sink.counts().packets, packets)  # type: ignore[union-attr]
    if relayed_packets != packets:
        raise MeasuringError(f"of {packets:,} packets of RTCP {relayed_packets:,} were relayed")
    return _Shares(*((now - then) / 1e9 / elapsed_s for now, then in zip(after, before, strict=True)))


def _times_ns(pid: int) -> tuple[int, int]:
    """Processor time so far of a relay, and of its child, if it has one."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return _time_ns(pid), sum(_time_ns(int(child)) for child in children)


def _time_ns(pid: int) -> int:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)


def _check(reporting: _Reporting, way: str) -> int:
    """Compare what the relay says with what arrived; the reports in all."""
    if reporting.collector is None:
        return 0
    wanted = reporting.collector.read()

    def is_told() -> bool:
        said = told(reporting.subject)
        return (said["recording hep_sent"], said["recording hep_lost"]) == (wanted, 0)

    wait_for(is_told, DEADLINE_S, f"the relay to tell of {wanted:,} reports by {way}")
    return wanted


def _median(shares: list[_Shares], plan: Plan) -> Result:
    relay, process = ([one[place] for one in shares] for place in (0, 1))
    share = statistics.median(process)
    return {
        "relay_share": round(statistics.median(relay), 4),
        "relay_share_quartiles": quartiles(relay, 4),
        "process_share": round(share, 4),
        "process_share_quartiles": quartiles(process, 4),
        "packet_us": round(1e6 * share / plan.reported_rate, 1),
    }
