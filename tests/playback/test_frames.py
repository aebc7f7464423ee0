"""How prompts are cut into packets (protocol.md 9.1, 9.3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.playback.frames import cut_of
from rtpproxy.playback.player import BLOCK_BYTES
from rtpproxy.playback.wheel import LONGEST_MS


@pytest.mark.parametrize(
    ("payload_type", "packet_ms", "expected"),
    [
        (0, 0, (80, 10)),
        (8, 20, (160, 20)),
        (9, 999, (7992, 999)),
        (3, 0, (33, 20)),
        (3, 20, (33, 20)),
        (3, 21, (66, 40)),
        (4, 0, (24, 30)),
        (4, 31, (48, 60)),
        (18, 0, (10, 10)),
        (18, 25, (30, 30)),
    ],
)
def test_whole_frames(payload_type, packet_ms, expected):
    assert cut_of(payload_type, packet_ms) == expected


def test_a_codec_without_known_frames():
    assert cut_of(97, 20) is None


@given(st.sampled_from([0, 3, 4, 8, 9, 18]), st.integers(0, 999))
def test_no_packet_is_shorter_than_asked_for_or_too_long_for_wheel_and_block(payload_type, packet_ms):
    cut = cut_of(payload_type, packet_ms)
    assert (packet_ms or 10) <= cut.duration_ms <= LONGEST_MS
    assert cut.size <= BLOCK_BYTES
