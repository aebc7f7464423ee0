"""Very many random frames at all hooks: forwarded exactly as they must be, or left exactly as they came.

A frame that leaves carries a datagram of an entry's locked source, and is right to the byte, checksums included. What
may not be ours passes unchanged. `make fuzz` gives a million frames.
"""

from dataclasses import replace
from random import Random

import pytest

from tests.bpf.data_plane import AS_XDP, DataPlane
from tests.bpf.frames import CALLER, HOP, received, rtp
from tests.bpf.prog_run import XDP_DROP, XDP_PASS, XDP_REDIRECT, Runner
from tests.bpf.reference import IPV4, IPV6, Expected, may_be_dropped, ones_sum, read, take_tags
from tests.conftest import QINQ, VLAN
from tests.fuzzing import SEED, failure, share

pytestmark = [pytest.mark.root, pytest.mark.kernel, pytest.mark.seeded]

HOOKS = ("xdp", "tc", "tc_behind_xdp")
PAIRS = [(False, False), (True, True), (False, True), (True, False)]
TO_TC = replace(HOP, xdp_way=None)
SIZES = (0, 1, 7, 160, 161, 1400, 1440, 1441, 1460, 1461)
GOOD_FRAMES = 20
"""For each entry."""
BATCH = 1000


class Frames:
    """Random frames: those of the callers of entries, changed, and any bytes."""

    def __init__(self, rng, entries):
        self._rng = rng
        self._good = [self._received(entry) for entry in entries for _ in range(GOOD_FRAMES)]
        self._changes = (
            *(self._flip_header, self._flip_header, self._flip, self._cut, self._lengthen, self._tag, self._splice),
            *(self._word, self._options, self._fragment, self._protocol, self._address, self._port, self._length),
        )

    def _received(self, entry):
        """A frame from the caller, or from another port of it, of any size and with any tags."""
        rng = self._rng
        chksum, sport = rng.choice(((None, CALLER.port), (None, CALLER.port), (0, CALLER.port), (0x1234, 7)))
        tags = rng.choice(((), (), VLAN, QINQ, ((0x8100, 0),)))
        options = {"chksum": chksum, "sport": sport, "tags": tags, "is_ipv6": ":" in entry.source.host}
        return received(entry.port, rtp(size=rng.choice(SIZES)), **options)

    def next(self):
        rng = self._rng
        if rng.randrange(12) == 0:
            return self._bytes()
        frame = bytearray(rng.choice(self._good))
        for _ in range(rng.choice((0, 0, 1, 1, 1, 2, 3))):
            rng.choice(self._changes)(frame)
        if rng.randrange(2):
            self._finish(frame)
        return long_enough(frame)

    def _bytes(self):
        rng = self._rng
        kind = rng.choice((b"\x08\x00", b"\x86\xdd", b"\x81\x00", b"\x08\x06", rng.randbytes(2)))
        start = rng.choice(self._good)[:6] if rng.randrange(2) else rng.randbytes(6)
        return long_enough(start + rng.randbytes(6) + kind + rng.randbytes(rng.choice((0, 5, 20, 40, 100, 1000))))

    def _finish(self, frame):
        """Make the checksum of an IPv4 header right, so that the frame is looked at further."""
        _, kind, at = take_tags(bytes(frame)) or ((), 0, 0)
        if kind == IPV4 and len(frame) >= at + 20:
            size = max(20, 4 * (frame[at] & 0xF))
            frame[at + 10 : at + 12] = b"\0\0"
            frame[at + 10 : at + 12] = (ones_sum(bytes(frame[at : at + size])) ^ 0xFFFF).to_bytes(2)

    def _flip_header(self, frame):
        frame[self._rng.randrange(min(len(frame), 70))] ^= 1 << self._rng.randrange(8)

    def _flip(self, frame):
        frame[self._rng.randrange(len(frame))] ^= self._rng.randrange(1, 256)

    def _word(self, frame):
        at = 2 * self._rng.randrange(min(len(frame), 70) // 2)
        frame[at : at + 2] = self._rng.choice((b"\0\0", b"\xff\xff", b"\0\1", b"\x7f\xff", b"\x80\0"))

    def _cut(self, frame):
        del frame[self._rng.randrange(14, len(frame) + 1) :]

    def _lengthen(self, frame):
        frame += self._rng.randbytes(self._rng.choice((1, 2, 18, 46)))

    def _tag(self, frame):
        kind = self._rng.choice((b"\x81\0", b"\x88\xa8", b"\x91\0"))
        frame[12:12] = kind + bytes((self._rng.randrange(256), self._rng.choice((0, 5, 6, 7, 9))))

    def _splice(self, frame):
        other, at = self._rng.choice(self._good), self._rng.randrange(80)
        frame[at:] = other[at:]

    def _packet(self, frame):
        """The family of the packet, and where it begins; 0 if it is none."""
        _, kind, at = take_tags(bytes(frame)) or ((), 0, 0)
        return (kind if kind in (IPV4, IPV6) and len(frame) >= at + 48 else 0), at

    def _options(self, frame):
        """Options of IPv4 or an extension header of IPv6, with lengths that agree."""
        kind, at = self._packet(frame)
        words = self._rng.randrange(1, 11)
        if kind == IPV4:
            frame[at + 20 : at + 20] = self._rng.choice((b"\1", b"\0", b"\x94")) * 4 * words
            frame[at] = 0x45 + words
            self._add(frame, at + 2, 4 * words)
        elif kind == IPV6:
            header = self._rng.choice((0, 43, 44, 51, 60, 135))
            length = 0 if header == 44 else self._rng.randrange(3)
            frame[at + 40 : at + 40] = bytes((frame[at + 6], length)) + self._rng.randbytes(6 + 8 * length)
            frame[at + 6] = header
            self._add(frame, at + 4, 8 + 8 * length)

    def _add(self, frame, at, number):
        frame[at : at + 2] = ((int.from_bytes(frame[at : at + 2]) + number) % 65536).to_bytes(2)

    def _fragment(self, frame):
        kind, at = self._packet(frame)
        if kind == IPV4:
            frame[at + 6 : at + 8] = self._rng.choice((0x2000, 0x0001, 0x2001, 0x1FFF, 0x8000, 0x4000)).to_bytes(2)

    def _protocol(self, frame):
        kind, at = self._packet(frame)
        if kind:
            frame[at + (9 if kind == IPV4 else 6)] = self._rng.choice((0, 1, 6, 17, 44, 58, 59, 136, 255))

    def _address(self, frame):
        """Of somebody else, or for somebody else."""
        kind, at = self._packet(frame)
        if kind:
            first, size = (12, 8) if kind == IPV4 else (8, 32)
            frame[at + first + self._rng.randrange(size)] ^= self._rng.randrange(1, 256)

    def _port(self, frame):
        kind, at = self._packet(frame)
        if kind:
            at += (20 if kind == IPV4 else 40) + self._rng.choice((0, 2))
            frame[at : at + 2] = self._rng.choice((0, 1, 5060, 19999, 20000, 40000, 65535)).to_bytes(2)

    def _length(self, frame):
        """Of IP or of UDP, or of both alike."""
        kind, at = self._packet(frame)
        if kind:
            of_ip, of_udp = (at + 2, at + 24) if kind == IPV4 else (at + 4, at + 44)
            number = self._rng.choice((-1, 1, 8, -8, 100, 30000))
            for place in self._rng.choice(((of_ip,), (of_udp,), (of_ip, of_udp))):
                self._add(frame, place, number)


def long_enough(frame):
    """A test run takes no less than an Ethernet header, and at TC an IP header after it where its type says so."""
    return bytes(frame).ljust({b"\x08\x00": 34, b"\x86\xdd": 54}.get(bytes(frame[12:14]), 14), b"\0")


@pytest.mark.parametrize("hook", HOOKS)
def test_any_frame(unlimited, unlimited_tables, hook):
    with DataPlane(unlimited, unlimited_tables, hook) as plane:
        entries, expected = [], {}
        for pair in PAIRS:
            for hop in (HOP, TO_TC):
                for is_any in (False, True):
                    entry = plane.install_between(*pair, hop, is_any_source_port=is_any)
                    is_here = hook == "tc" or (hop is HOP) == (hook == "xdp")
                    entries.append(entry)
                    expected[entry.port] = Expected(entry, hop, is_forwarding=is_here)
        open_ports = {*expected, plane.open_port()}
        judge = Judge(plane, expected, open_ports)
        frames = Frames(Random(f"{SEED} {hook}"), entries)
        count = share(HOOKS.index(hook), len(HOOKS))
        for first in range(0, count, BATCH):
            judge.run([frames.next() for _ in range(min(BATCH, count - first))], first)
        assert judge.forwarded > count / 50, "too few frames are good ones"


class Judge:
    """Runs frames, and compares what becomes of them with what must."""

    def __init__(self, plane, expected, open_ports):
        self._plane = plane
        self._expected = expected
        self._open_ports = open_ports
        self._is_xdp = plane.hook == "xdp"
        self._runner = Runner(plane.program_fd)
        self.forwarded = 0

    def run(self, frames, first):
        before = self._plane.tables.counts.verdicts()
        actions = [0] * 5
        for number, frame in enumerate(frames, first):
            action, out = self._runner.run(frame)
            action = action if self._is_xdp else AS_XDP[action]
            actions[action] += 1
            datagram = read(frame)
            entry = self._expected.get(datagram.dport) if datagram else None
            leaves = entry.frame(datagram, is_xdp=self._is_xdp) if entry else None
            if leaves is not None:
                is_right = action == XDP_REDIRECT and out == leaves
            else:
                is_dropped = action == XDP_DROP and may_be_dropped(frame, self._open_ports)
                is_right = out == frame and (action == XDP_PASS or is_dropped)
            if not is_right:
                became = "dropped" if action == XDP_DROP else f"{action}: {out.hex()}"
                wanted = f", not {leaves.hex()}" if leaves else ""
                raise AssertionError(failure(f"{self._plane.hook}, became {became}{wanted}", number, frame))
        after = self._plane.tables.counts.verdicts()
        counted = {name: after[name] - before[name] for name in after}
        assert counted["forwarded"] == actions[XDP_REDIRECT]
        dropped = sum(count for name, count in counted.items() if name.startswith("dropped_"))
        assert dropped == actions[XDP_DROP]
        if self._plane.hook != "tc_behind_xdp":  # which leaves most counting to XDP
            assert sum(counted.values()) == len(frames)
        self.forwarded += actions[XDP_REDIRECT]
