"""HEP, version 3 (protocol.md 13.2): whole packets by their bytes, and read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.recording.hep import MOST_CORRELATION_BYTES, HepPacker, correlate
from rtpproxy.recording.packet import Place
from tests.recording.hep_packets import Hep, read_hep
from tests.recording.packets import BEGIN_NS, OUR_PLACE, OUR_PLACE_6, PHONE, PHONE_6

IPV4 = """
48 45 50 33 00 74
00 00 00 01 00 07 02
00 00 00 02 00 07 11
00 00 00 03 00 0a 0a 00 01 02
00 00 00 04 00 0a 0a 00 00 01
00 00 00 07 00 08 0f a0
00 00 00 08 00 08 4e 20
00 00 00 09 00 0a 6a b1 3b 80
00 00 00 0a 00 0a 00 01 e2 40
00 00 00 0b 00 07 05
00 00 00 0c 00 0a 00 00 00 65
00 00 00 11 00 0f 63 61 6c 6c 40 68 2e 31 32
"""
EMPTY = "00 00 00 0f 00 08 7b 7d"


def test_bytes():
    packet = HepPacker(101).pack(PHONE, OUR_PLACE, BEGIN_NS, correlate(b"call@h.12"), "{}")
    assert packet == bytes.fromhex(IPV4 + EMPTY)


def test_ipv6():
    packet = HepPacker(0xFFFFFFFF).pack(PHONE_6, OUR_PLACE_6, BEGIN_NS, correlate(b"c"), '{"ssrc":1}')
    assert read_hep(packet) == Hep(
        ("2001:db8:0:1::2", 4000), ("2001:db8::1", 20000), BEGIN_NS // 1000, 0xFFFFFFFF, b"c", {"ssrc": 1}
    )


@pytest.mark.parametrize(
    ("call_id", "expected"),
    [
        (b"843817637684230@998sdasdh09", b"843817637684230@998sdasdh09"),
        (b"{<\"'%[]?/\\:>}~!`_*+", b"{<\"'%[]?/\\:>}~!`_*+"),
        (b"a\0b\nc\x7f\xff\xc3\xa4 ", b"a?b?c?????"),
        (b"x" * 8000, b"x" * MOST_CORRELATION_BYTES),
        (b"", b""),
    ],
)
def test_call_ids(call_id, expected):
    """Those of SIP are left as they are, because Homer compares them; all else would be an error in its database."""
    packet = HepPacker(1).pack(PHONE, OUR_PLACE, BEGIN_NS, correlate(call_id), "{}")
    assert read_hep(packet).correlation == expected


@given(
    st.sampled_from([4, 16]).flatmap(
        lambda size: st.tuples(*[st.tuples(st.binary(min_size=size, max_size=size), st.integers(0, 65535))] * 2)
    ),
    st.integers(0, (1 << 32) * 1_000_000_000 - 1),
    st.integers(0, 0xFFFFFFFF),
    st.binary(max_size=50),
)
def test_round_trip(places, wall_ns, capture_id, call_id):
    source, to = (Place(*one) for one in places)
    read = read_hep(HepPacker(capture_id).pack(source, to, wall_ns, correlate(call_id), '{"a":[1]}'))
    assert (read.source[1], read.to[1]) == (source.port, to.port)
    assert (read.time_us, read.capture_id, read.body) == (wall_ns // 1000, capture_id, {"a": [1]})
    assert len(read.correlation) == len(call_id)


def test_longest():
    packet = HepPacker(1).pack(PHONE_6, OUR_PLACE_6, BEGIN_NS, correlate(b"c" * 8191), '"' + "x" * 59_997 + '"')
    assert len(packet) < 65_507 - 1000
    assert len(read_hep(packet).body) == 59_997
