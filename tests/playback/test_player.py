"""The packets of a prompt, compared whole with what protocol.md 9.3 says; scapy has another reading of RTP headers."""

import random

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.rtp import RTP

from rtpproxy.playback.frames import cut_of
from rtpproxy.playback.player import BLOCK_BYTES, Player
from tests.playback.memory import START, Memory


def player(memory, payload_type=0, packet_ms=20, passes=1):
    return Player(memory, len(memory.data), payload_type, cut_of(payload_type, packet_ms), passes, START)


def packets(playing, most=10_000):
    """Take all packets, or the first of them."""
    found = []
    while len(found) < most and (packet := playing.packet()) is not None:
        found.append(packet)
    return found


def expected(payloads, payload_type, step):
    """What packets with these payloads are, made by scapy: marker on the first, numbers that go on and wrap."""
    return [
        bytes(
            RTP(
                version=2,
                marker=int(number == 0),
                payload_type=payload_type,
                sequence=(START.sequence + number) & 0xFFFF,
                timestamp=(START.timestamp + number * step) & 0xFFFFFFFF,
                sourcesync=START.ssrc,
            )
        )
        + payload
        for number, payload in enumerate(payloads)
    ]


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def test_whole_packets_that_number_on():
    data = noise(800)
    playing = player(Memory(data))
    assert packets(playing) == expected([data[at : at + 160] for at in range(0, 800, 160)], 0, 160)
    assert playing.is_over
    assert playing.packet() is None


def test_an_incomplete_end_is_dropped():
    data = noise(500)
    assert packets(player(Memory(data))) == expected([data[at : at + 160] for at in (0, 160, 320)], 0, 160)


def test_repetition_goes_on_without_a_gap():
    data = noise(335)
    playing = player(Memory(data), passes=3)
    assert packets(playing) == expected([data[:160], data[160:320]] * 3, 0, 160)
    assert playing.is_over


def test_for_ever():
    data = noise(160)
    playing = player(Memory(data), passes=None)
    assert packets(playing, 1000) == expected([data] * 1000, 0, 160)
    assert not playing.is_over


def test_a_frame_of_another_codec_has_timestamps_of_8_khz():
    data = noise(66)
    assert packets(player(Memory(data), 3, 0)) == expected([data[:33], data[33:]], 3, 160)


def test_an_empty_prompt_is_over_even_if_it_is_to_go_on_for_ever():
    for size in (0, 159):
        memory = Memory(noise(size))
        playing = player(memory, passes=None)
        assert playing.is_over
        assert playing.packet() is None
        assert memory.asked == []


def test_what_is_not_in_memory_is_awaited():
    """And asked for once as the next block, before it is needed, then each time that it is needed."""
    data = noise(BLOCK_BYTES + 160)
    memory = Memory(data, is_there=False)
    playing = player(memory)
    assert playing.packet() is None
    assert memory.asked == [0, 0]
    assert playing.offer(1, memory.read(1)) is False, "another is awaited"
    assert playing.offer(0, memory.read(0))
    first = packets(playing)
    assert first == expected([data[at : at + 160] for at in range(0, BLOCK_BYTES, 160)], 0, 160)
    assert memory.asked == [0, 0, 1, 1]
    assert not playing.is_over
    assert playing.offer(1, memory.read(1))
    assert packets(playing) == expected([data[at : at + 160] for at in range(0, len(data), 160)], 0, 160)[-1:]
    assert playing.is_over


def test_the_next_pass_is_read_before_it_begins():
    data = noise(BLOCK_BYTES + 160)
    memory = Memory(data)
    playing = player(memory, passes=2)
    packets(playing, BLOCK_BYTES // 160 + 1)
    assert memory.asked == [0, 1, 0]


@given(
    st.sampled_from([0, 3, 4, 8, 9, 18]),
    st.integers(0, 999),
    st.integers(0, 3 * BLOCK_BYTES),
    st.integers(1, 3),
    st.integers(0, 9),
)
def test_every_prompt_is_played_whole(payload_type, packet_ms, size, passes, seed):
    data = noise(size, seed)
    cut = cut_of(payload_type, packet_ms)
    whole = size // cut.size * cut.size
    played = packets(player(Memory(data), payload_type, packet_ms, passes), 1 << 20)
    assert b"".join(packet[12:] for packet in played) == data[:whole] * passes
    assert all(len(packet) == 12 + cut.size for packet in played)
    stamps = [RTP(packet[:12]).timestamp for packet in played[:50]]
    assert stamps == [(START.timestamp + 8 * cut.duration_ms * n) & 0xFFFFFFFF for n in range(len(stamps))]


@given(st.integers(1, 4 * BLOCK_BYTES), st.integers(1, 3), st.randoms(use_true_random=False))
def test_blocks_that_come_at_any_time(size, passes, rng):
    """Whatever is missing when, nothing is left out, and nothing is asked for that does not exist."""
    data = noise(size)
    memory = Memory(data)
    playing = player(memory, packet_ms=30, passes=passes)
    played = []
    while not playing.is_over:
        memory.is_there = rng.random() < 0.7
        packet = playing.packet()
        if packet is not None:
            played.append(packet[12:])
    assert b"".join(played) == data[: size // 240 * 240] * passes
