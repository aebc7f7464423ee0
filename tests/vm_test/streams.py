"""Streams of a run without a network: accounts, the frames that phones send, and those that a relay would deliver."""

import numpy as np
from generator.accounts import Account
from generator.addresses import Tags
from generator.codecs import CODECS
from generator.differences import Expectations, split_tags
from generator.frames import Flow, Frames, Kind, Layout, Marking, Streams, build, rtcp_payload, rtp_payload
from generator.judge import Chunk, Judge

PHONE_MAC, RELAY_MAC = "0a:00:00:00:01:02", "02:00:00:00:01:01"
CAPACITY = 100
MS = 1_000_000
_TAG_TYPES = (0x8100, 0x88A8)


def flows(version: int, calls: int) -> list[Flow]:
    """From the relay to phones, each of which has a port of its own."""
    relay, phone = ("10.0.1.1", "10.0.1.10") if version == 4 else ("fd00::1", "fd00::10")
    return [Flow(RELAY_MAC, relay, 35000 + 4 * call, PHONE_MAC, phone, 40000 + 2 * call) for call in range(calls)]


def payload(kind: Kind) -> bytes:
    """160 bytes of PCMU, or compound RTCP."""
    return rtp_payload(CODECS["pcmu"], 160, 7) if kind is Kind.RTP else rtcp_payload()


def frames(
    version: int = 4, kind: Kind = Kind.RTP, tags: Tags = (), calls: int = 3, first_port: int = 40000, first: int = 0
) -> Frames:
    """As the relay must deliver them: TOS 0xb8, TTL 64."""
    layout = Layout(tags, version, len(payload(kind)), kind)
    moved = [flow._replace(port=flow.port - 40000 + first_port) for flow in flows(version, calls)]
    streams = Streams(first, 0x10000000, 0x20000000)
    return build(moved, layout, Marking(0xB8, 64), payload(kind), streams, 160)


class Wire:
    """An account whose packets are numbered as they are sent, and the judge that they arrive at."""

    def __init__(self, version: int = 4, kind: Kind = Kind.RTP, tags: Tags = ()) -> None:
        self.account = Account(
            ("caller to callee", kind.value), frames(version, kind, tags), 0, CAPACITY, Expectations()
        )
        self.judge = Judge({"out1": [self.account]})
        self.judge.expect_at_phones(self.account)

    def send(self, count: int, call: int = 0, at_ns: int = 0) -> list[bytes]:
        """Send the next packets of a stream; the frames that should arrive."""
        places = np.arange(count) + self.account.sent[call]
        numbers = self.account.send(np.full(count, call), places)
        self.account.stamp(np.full(count, call), numbers, at_ns)
        return [self.account.expected(call, number) or b"" for number in numbers]

    def arrive(self, *arrived: bytes, at_ns: int = 0, unfinished: bool = False, interface: str = "out1") -> list[bytes]:
        """Let frames arrive, all at once; what is no media."""
        return self.judge.take(interface, chunk(arrived, at_ns, unfinished))

    def lost(self) -> int:
        """Packets that the relay has lost."""
        return int((self.account.sent - self.account.received() - self.account.opening()).sum())

    def fields(self) -> set[str]:
        """Names of fields that were wrong."""
        return {name for counted in self.account.faults.values() for name in counted}


def chunk(arrived: tuple[bytes, ...], at_ns: int = 0, unfinished: bool = False) -> Chunk:
    """Frames as the kernel hands them over: without the outer tag, which it tells apart."""
    types, tags, stripped = [], [], []
    for frame in arrived:
        is_tagged = int.from_bytes(frame[12:14]) in _TAG_TYPES
        types.append(int.from_bytes(frame[12:14]) if is_tagged else 0)
        tags.append(int.from_bytes(frame[14:16]) if is_tagged else 0)
        stripped.append(frame[:12] + frame[16:] if is_tagged else frame)
    width = max(len(frame) for frame in stripped)
    rows = np.array([list(frame.ljust(width, b"\0")) for frame in stripped], dtype=np.uint8)
    count = len(arrived)
    return Chunk(
        rows,
        np.array([len(frame) for frame in stripped]),
        np.full(count, at_ns),
        np.array(types),
        np.array(tags),
        np.full(count, unfinished),
    )


def flipped(frame: bytes, offset: int, bits: int = 0xFF) -> bytes:
    """The frame with bits of one byte the other way round."""
    return frame[:offset] + bytes([frame[offset] ^ bits]) + frame[offset + 1 :]


__all__ = ["CAPACITY", "MS", "Wire", "chunk", "flipped", "flows", "frames", "payload", "split_tags"]
