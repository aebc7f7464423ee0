"""What payloads last, and where they can be divided (protocol.md 6.4, RFC 3551)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.rtp.framing import FRAMINGS

PCMU, GSM, G723, PCMA, G722, G729 = 0, 3, 4, 8, 9, 18
HIGH, LOW, NOISE, UNUSED = b"\0" + bytes(23), b"\1" + bytes(19), b"\2" + bytes(3), b"\3" + bytes(3)
"""Frames of G.723.1: 6.3 kbit/s, 5.3 kbit/s, comfort noise, and one that no encoder makes."""


@pytest.mark.parametrize(
    ("payload_type", "payload", "ms"),
    [
        *((PCMU, bytes(160), 20), (PCMA, bytes(240), 30), (G722, bytes(160), 20), (PCMU, bytes(1), 0.125)),
        *((GSM, bytes(33), 20), (GSM, bytes(99), 60), (GSM, bytes(32), 0), (GSM, bytes(65), 0)),
        *((G729, bytes(10), 10), (G729, bytes(60), 60), (G729, bytes(2), 10), (G729, bytes(22), 30)),
        *((G723, HIGH, 30), (G723, LOW + HIGH, 60), (G723, HIGH + NOISE + LOW, 90), (G723, HIGH[:23], 0)),
        *((G723, UNUSED, 0), (G723, HIGH + UNUSED, 0), (G723, b"\2", 0)),
        *((kind, b"", 0) for kind in FRAMINGS),
    ],
)
def test_length(payload_type, payload, ms):
    assert FRAMINGS[payload_type].measure(payload) == ms * 8


@pytest.mark.parametrize(
    ("payload_type", "payload", "ms", "size"),
    [
        *((PCMU, bytes(160), 10, 80), (PCMA, bytes(160), 10, 80), (G722, bytes(160), 10, 80), (GSM, bytes(99), 40, 66)),
        *((G729, bytes(22), 10, 10), (G729, bytes(22), 20, 20)),
        *((G723, HIGH + NOISE + LOW, 30, 24), (G723, HIGH + NOISE + LOW, 60, 28), (G723, LOW + HIGH, 30, 20)),
    ],
)
def test_where_a_payload_is_divided(payload_type, payload, ms, size):
    """G.722 has 8 bytes a millisecond: the C RTPproxy takes half of them (protocol.md 6.4)."""
    assert FRAMINGS[payload_type].head_size(payload, ms * 8) == size


def test_nothing_follows_a_short_frame():
    assert FRAMINGS[G729].is_end(bytes(12))
    assert not FRAMINGS[G729].is_end(bytes(20))
    assert not FRAMINGS[G723].is_end(NOISE)
    assert not FRAMINGS[PCMU].is_end(bytes(3))


@given(st.sampled_from(sorted(FRAMINGS)), st.binary(max_size=400), st.integers(0, 40))
def test_both_parts_of_any_payload_last_as_long_as_the_whole(payload_type, payload, frames):
    framing = FRAMINGS[payload_type]
    units = framing.measure(payload)
    head_units = frames * framing.units
    assert units % framing.units == 0
    if 0 < head_units < units:
        size = framing.head_size(payload, head_units)
        assert framing.measure(payload[:size]) == head_units
        assert framing.measure(payload[size:]) == units - head_units
