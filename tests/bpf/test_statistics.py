"""RTP statistics of forwarded packets: the same as if userspace had counted all, however packets are divided."""

import struct
import time
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rtpproxy.rtp.header import parse_rtp
from rtpproxy.rtp.statistics import MAX_JUMP, RtpState, SequenceTracker
from tests.bpf.data_plane import DataPlane
from tests.bpf.frames import received
from tests.bpf.prog_run import XDP_PASS, XDP_REDIRECT, run

pytestmark = [pytest.mark.root, pytest.mark.kernel]

NS = 1_000_000_000
UNITS = 0.1
"""Tolerance of jitter, timestamp units."""
MICROSECONDS = 5e-6
many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def rtp(sequence, ssrc=1, timestamp=0, payload_type=0, marker=False, flags=0x80, payload=b"x"):
    header = struct.pack(">BBHII", flags, marker << 7 | payload_type, sequence % 65536, timestamp % 2**32, ssrc % 2**32)
    return header + payload


class Packet(NamedTuple):
    data: bytes
    after_s: float = 0.02
    in_kernel: bool = True


class Stream:
    """A stream: kernel or userspace count each packet, and `alone` counts all of them."""

    def __init__(self, place: tuple[DataPlane, int]) -> None:
        """The port is always the same; earlier counts there do not belong to this stream."""
        self._plane, self.key = place
        self._head = received(self.key, chksum=0)
        self.tracker = SequenceTracker()
        self.alone = SequenceTracker()
        self._now = 1000.0
        self._real = time.monotonic()
        counters = self._plane.tables.counts.counters(self.key)
        self._packets = counters.packets
        self.tracker.skip_forwarded(counters.totals)
        self._plane.tables.ports.seed(self.key, self.tracker.state())

    def send(self, packet: Packet) -> None:
        """Let time pass, and one packet arrive."""
        self._age(packet.after_s)
        real = self._forward(packet.data) if packet.in_kernel else self._observe(packet.data)
        self._now += packet.after_s + real - self._real
        self._real = real
        self.alone.observe(parse_rtp(packet.data), self._now)

    def absorb(self) -> None:
        """Let userspace take over the counts of the kernel."""
        counters = self._plane.tables.counts.counters(self.key)
        packets = counters.packets - self._packets
        self.tracker.absorb_forwarded(packets, counters.state, counters.totals, counters.ssrc_changed_at)
        self._packets = counters.packets

    def _age(self, seconds: float) -> None:
        """Let time pass for the kernel: its clock cannot be set, but what it remembers can be made older."""
        for member in ("last_seen_ns", "arrived_ns"):
            at_ns = self._plane.peek("port_counters", self.key, member)
            if at_ns:
                self._plane.poke("port_counters", self.key, member, at_ns - int(seconds * NS))

    def _forward(self, data: bytes) -> float:
        assert self._run(data) == XDP_REDIRECT
        return self._plane.peek("port_counters", self.key, "last_seen_ns") / NS

    def _run(self, data: bytes) -> int:
        frame = bytearray(self._head + data)
        length, checksum = struct.unpack_from("!H", frame, 16)[0], struct.unpack_from("!H", frame, 24)[0]
        # The header's checksum changes by as much as its length (RFC 1624).
        struct.pack_into("!H", frame, 24, (checksum - len(data) - 1) % 65535 + 1)
        struct.pack_into("!H", frame, 16, length + len(data))
        struct.pack_into("!H", frame, 38, 8 + len(data))
        return run(self._plane._loaded.xdp_fd, bytes(frame)).verdict

    def _observe(self, data: bytes) -> float:
        tables = self._plane.tables
        tables.ports.hold(self.key)
        assert self._run(data) == XDP_PASS
        self.absorb()
        now = time.monotonic()
        self.tracker.observe(parse_rtp(data), now)
        tables.ports.seed(self.key, self.tracker.state())
        return now


def counts(tracker):
    names = "ssrc", "sent", "received", "lost", "duplicates", "parse_errors", "payload_type", "ssrc_changes"
    return {name: getattr(tracker, name) for name in names}


def measures(tracker):
    return tracker.jitter.last, tracker.jitter.maximum, tracker.jitter.average


def check(stream):
    stream.absorb()
    assert counts(stream.tracker) == counts(stream.alone)
    assert stream.tracker.longest_gap_s == pytest.approx(stream.alone.longest_gap_s, abs=MICROSECONDS)


def test_first_packet_that_the_kernel_forwards(place):
    """It is the one that userspace would have seen, too; a change of the SSRC after that was absorbed is none."""
    stream = Stream(place)
    before = time.monotonic()
    stream.send(Packet(rtp(7), after_s=0.0))
    after = time.monotonic()
    stream.send(Packet(rtp(8), after_s=0.0))
    stream.absorb()
    first = stream.tracker.first_seen_at
    assert before - MICROSECONDS <= first <= after + MICROSECONDS
    stream.send(Packet(rtp(8, ssrc=2), after_s=0.0))
    check(stream)
    assert stream.tracker.first_seen_at == first


@pytest.fixture(scope="module")
def place(unlimited, unlimited_tables):
    """A plane with an entry, and the key of its port."""
    with DataPlane(unlimited, unlimited_tables) as plane:
        yield plane, plane.install().key


# The same streams as userspace alone is tested with

M = {"marker": True}
RTCP, RTCP_LAST = {"payload_type": 72, "marker": True, "ssrc": 2}, {"payload_type": 85, "marker": True, "flags": 0x81}
"""Second bytes 200 and 213."""
NO_RTCP = {"payload_type": 71, "marker": True}, {"payload_type": 86, "marker": True}
SEQUENCES = {
    "one": [7],
    "in order": [7, 8, 9],
    "lost": [7, 10],
    "late": [7, 10, 8],
    "late twice": [7, 10, 8, 8],
    "duplicate": [7, 7, 8, 8, 7],
    "before the first": [10, 8],
    "between the first and the one before": [10, 8, 9, 9],
    "wrap": [65534, 65535, 0, 1],
    "wrap with loss": [65534, 1],
    "late across the wrap": [65534, 1, 65535],
    "before the first across the wrap": [1, 65535],
    "furthest jump ahead": [100, 636, 101, 635, 101],
    "jump ahead": [100, 637],
    "furthest jump back": [1000, 464, 465, 999, 465],
    "jump back": [1000, 463],
    "run after a jump": [100, 101, 5000, 5002, 5002],
    "marker ahead": [7, (9, M)],
    "marker going back": [7, 8, 9, (7, M), 8],
    "marker across the wrap": [65535, (0, M)],
    "marker repeated": [7, (7, M)],
    "another ssrc": [7, 9, (500, {"ssrc": 2}), (502, {"ssrc": 2}), 10],
    "ssrc zero": [(1, {"ssrc": 0}), (2, {"ssrc": 0})],
    "not rtp": [7, None, 8, None],
    "not rtp first": [None, 8],
    "rtcp on the port": [7, (4000, RTCP), 8, (9, RTCP_LAST), 11, (8, RTCP)],
    "rtcp first": [(4000, RTCP), 7, 9],
    "markers that are no rtcp": [(7, NO_RTCP[0]), (8, NO_RTCP[1]), 10],
    "every second one, for long": [*range(0, 3000, 2), 2997, 2463, 2461, 2999],
    "long run, then a late one": [5, *range(7, 2000), 1500, 6],
    "late ones everywhere": [*range(0, 1200, 3), *range(1197, 662, -1)],
}


def packet(spec):
    if spec is None:
        return b"not RTP"
    return rtp(spec) if isinstance(spec, int) else rtp(spec[0], **spec[1])


@pytest.mark.parametrize("way", ["kernel", "in turn", "kernel last", "kernel first"])
@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences(place, name, way):
    stream, specs = Stream(place), SEQUENCES[name]
    for number, spec in enumerate(specs):
        half = len(specs) // 2
        in_kernel = {
            "kernel": True,
            "in turn": number % 2,
            "kernel last": number >= half,
            "kernel first": number < half,
        }
        stream.send(Packet(packet(spec), in_kernel=bool(in_kernel[way])))
    check(stream)


# Any stream

steps = st.one_of(
    st.just(1), st.just(1), st.integers(-5, 5), st.integers(-70, 70), st.integers(-600, 600), st.integers(0, 65535)
)
specs = st.tuples(
    steps,
    st.sampled_from([0, 0, 0, 0, 0, 0, 0, 0, 1]),  # on to a new SSRC
    st.sampled_from([False] * 9 + [True]),
    st.sampled_from([False] * 9 + [True]),  # not RTP
    st.one_of(st.just(160), st.integers(-400, 400), st.integers(0, 2**32)),
    st.sampled_from([0, 0, 0, 0, 8, 6, 10, 14, 16, 17, 18, 96, 19]),
    st.one_of(st.just(0.02), st.floats(0, 0.1), st.floats(0, 100)),
)
turns = st.lists(st.integers(1, 30), min_size=1, max_size=8)


def packets_of(sequence, specs, turns):
    """Packets from (steps, ...) as above; userspace and kernel take turns of so many packets."""
    ssrc, timestamp, in_kernel, left, at = 5, 0, False, turns[0], 0
    for step, next_ssrc, marker, is_other, timestamp_step, payload_type, after_s in specs:
        sequence, ssrc, timestamp = sequence + step, ssrc + next_ssrc, timestamp + timestamp_step
        data = b"not RTP" if is_other else rtp(sequence, ssrc, timestamp, payload_type, marker)
        yield Packet(data, after_s, in_kernel)
        left -= 1
        if not left:
            in_kernel, at = not in_kernel, (at + 1) % len(turns)
            left = turns[at]


@many
@given(st.integers(0, 65535), st.lists(specs, max_size=120), turns)
@example(65000, [(1, 0, False, False, 160, 0, 0.02)] * 1000, [500])
def test_any_stream_with_handovers(place, sequence, specs, turns):
    stream = Stream(place)
    for number, packet in enumerate(packets_of(sequence, specs, turns)):
        stream.send(packet)
        if number % 7 == 0:  # a look in between changes nothing
            check(stream)
    check(stream)
    if stream.alone.jitter.maximum < 2**24:  # what the kernel can hold
        assert measures(stream.tracker) == pytest.approx(measures(stream.alone), abs=UNITS, rel=1e-4)


@many
@given(
    st.integers(0, 65535),
    st.lists(st.tuples(steps, st.integers(1, 3), st.booleans(), st.booleans()), max_size=100),
)
def test_counts_with_ssrcs_that_alternate(place, sequence, specs):
    stream = Stream(place)
    for step, ssrc, marker, in_kernel in specs:
        sequence += step
        stream.send(Packet(rtp(sequence, ssrc, marker=marker), 0.02, in_kernel))
    check(stream)


# Jitter and gaps


def test_longest_gap_counts_every_packet(place):
    stream = Stream(place)
    for data, after_s in [(rtp(1), 9.0), (rtp(2), 0.02), (b"not RTP", 1.98), (rtp(2), 1.0), (rtp(3), 1.0)]:
        stream.send(Packet(data, after_s))
    check(stream)
    assert stream.tracker.longest_gap_s == pytest.approx(1.98, abs=0.1)


@pytest.mark.parametrize(("payload_type", "hz"), [(0, 8000), (6, 16000), (10, 44100), (14, 90000), (16, 11025)])
@pytest.mark.parametrize("handover", [False, True])
def test_jitter_of_a_talk(place, payload_type, hz, handover):
    stream = Stream(place)
    for number in range(300):
        late_s = 0.003 * (number * 7919 % 11) / 11
        stream.send(
            Packet(
                rtp(number, 1, number * hz // 50, payload_type),
                0.02 + late_s - 0.0015,
                not (handover and number % 50 == 9),
            )
        )
    check(stream)
    assert stream.alone.jitter.average > hz / 5000
    assert measures(stream.tracker) == pytest.approx(measures(stream.alone), abs=UNITS)


def test_timestamps_set_anew_are_no_jitter(place):
    stream = Stream(place)
    for number, timestamp in enumerate([0, 160, 2**31, 2**31 + 160, 5]):
        stream.send(Packet(rtp(number, 1, timestamp)))
    check(stream)
    assert measures(stream.tracker) == pytest.approx(measures(stream.alone), abs=UNITS)


def test_ssrc_that_comes_back_starts_its_jitter_anew(place):
    """Userspace keeps the state of ten SSRCs, the kernel of one."""
    stream = Stream(place)
    for number, timestamp in enumerate([0, 1600, 3200]):
        stream.send(Packet(rtp(number, 1, timestamp)))
    before = stream.alone.jitter.last
    for number, (ssrc, timestamp) in enumerate([(2, 0), (1, 4800)]):
        stream.send(Packet(rtp(number, ssrc, timestamp)))
    stream.absorb()
    assert stream.tracker.jitter.last == pytest.approx(before, abs=UNITS)
    stream.send(Packet(rtp(5, 1, 4960)))
    stream.absorb()
    assert stream.tracker.jitter.last < before / 2 < stream.alone.jitter.last


# What is RTP


@many
@given(
    st.integers(0, 255),
    st.binary(max_size=80),
    st.one_of(st.none(), st.integers(0, 20)),
    st.integers(0, 255),
)
def test_what_is_rtp(place, flags, rest, extension_words, last):
    """The kernel and userspace judge alike (protocol.md 5.8)."""
    data = bytearray(bytes([flags]) + rest)
    length_at = 12 + 4 * (flags & 15) + 2
    if extension_words is not None and len(data) >= length_at + 2:
        struct.pack_into(">H", data, length_at, extension_words)
    data[-1] = last if len(data) > 1 else flags
    stream = Stream(place)
    stream.send(Packet(bytes(data)))
    check(stream)


# State that goes over


def test_state_survives_the_row(place):
    tracker = SequenceTracker()
    for number, sequence in enumerate([70, 80, 81, 90, 75, 90]):
        tracker.observe(parse_rtp(rtp(sequence, 9, 160 * number)), 50.0 + 0.021 * number)
    plane, key = place
    plane.tables.ports.seed(key, tracker.state())
    state, wanted = plane.tables.counts.counters(key).state, tracker.state()
    shift = state.highest - wanted.highest
    assert shift % 65536 == 0
    assert state.missing == {number + shift for number in wanted.missing}
    assert len(state.missing) == 8 + 8
    assert state.lowest - shift == wanted.lowest
    times = [(one.seen_at, one.longest_gap_s, one.arrived_at) for one in (state, wanted)]
    assert times[0] == pytest.approx(times[1], abs=MICROSECONDS)
    assert (state.jitter, state.jitter_max) == pytest.approx((wanted.jitter, wanted.jitter_max), abs=0.01)
    assert (state.ssrc, state.timestamp, state.is_jitter_new) == (9, wanted.timestamp, False)


def test_new_session_at_a_port_that_was_used(place):
    plane, key = place
    old = SequenceTracker()
    old.observe(parse_rtp(rtp(1)), 1.0)
    plane.tables.ports.seed(key, old.state())
    plane.tables.ports.seed(key, SequenceTracker().state())
    assert plane.tables.counts.counters(key).state._replace(highest=0, lowest=0) == RtpState()


def test_what_is_far_behind_is_not_seeded():
    tracker = SequenceTracker()
    for sequence in (0, 500, 1000, 1500):
        tracker.observe(parse_rtp(rtp(sequence)), 1.0)
    assert min(tracker.state().missing) >= 1500 - MAX_JUMP
