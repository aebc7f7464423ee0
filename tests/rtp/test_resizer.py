"""Repacketization of one stream (protocol.md 6.4)."""

import struct
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtpproxy.rtp.framing import FRAMINGS
from rtpproxy.rtp.header import parse_rtp, split_packet
from rtpproxy.rtp.resizer import (
    MAX_BURST_UNITS,
    MAX_BYTES,
    MAX_QUEUED,
    MAX_SPAN_UNITS,
    MAX_SPEED,
    MAX_UNITS,
    Resizer,
)

PCMU, GSM, G723, PCMA, G722, G729, EVENT = 0, 3, 4, 8, 9, 18, 101
SSRC = 0x1234


def voice(size, start=0):
    """Bytes of sound that tell where they belong."""
    return bytes((start + number) % 251 for number in range(size))


def packet(sequence, timestamp, payload, *, kind=PCMU, marker=False, ssrc=SSRC, flags=0x80, rest=b""):
    """A whole packet; `rest` follows the fixed header: CSRC list, extension."""
    fixed = struct.pack(">BBHII", flags, kind | (0x80 if marker else 0), sequence % 65536, timestamp % 2**32, ssrc)
    return fixed + rest + payload


def put(resizer, data, now=0.0):
    """Give a packet to a resizer; whole packets that are to be sent, or None."""
    made = resizer.put(data, parse_rtp(data), now)
    return None if made is None else list(made)


def ten_ms(number, first=100, start=0):
    """The packet of that number, of 10 ms of PCMU."""
    return packet(first + number, start + 80 * number, voice(80, 80 * number))


# Joined and divided


def test_two_packets_become_one():
    resizer = Resizer(20)
    assert put(resizer, ten_ms(0)) == []
    assert put(resizer, ten_ms(1), 0.01) == [packet(100, 0, voice(160))]
    assert put(resizer, ten_ms(2), 0.02) == []
    assert put(resizer, ten_ms(3), 0.03) == [packet(101, 160, voice(160, 160))]
    assert resizer.waiting == 0


def test_one_packet_becomes_two():
    resizer = Resizer(10)
    assert put(resizer, packet(7, 1600, voice(160), marker=True)) == [
        packet(7, 1600, voice(80), marker=True),
        packet(8, 1680, voice(80, 80)),
    ]
    assert put(resizer, packet(8, 1760, voice(160))) == [
        packet(9, 1760, voice(80)),
        packet(10, 1840, voice(80, 80)),
    ]


def test_lengths_that_divide_unevenly():
    """30 ms into 20 ms: what is left of one is joined with the first part of the next."""
    resizer = Resizer(20)
    assert put(resizer, packet(1, 0, voice(240))) == [packet(1, 0, voice(160))]
    assert put(resizer, packet(2, 240, voice(240, 240)), 0.03) == [
        packet(2, 160, voice(160, 160)),
        packet(3, 320, voice(160, 320)),
    ]
    assert resizer.waiting == 0


def test_packets_of_the_right_length_keep_their_form():
    resizer = Resizer(20)
    for number in range(100, 110):
        data = packet(number, number * 160, voice(160), marker=number == 100)
        assert put(resizer, data) == [data]


@pytest.mark.parametrize(
    ("kind", "ms", "payload_ms"),
    [
        *((PCMU, 1, 10), (PCMU, 10, 10), (PCMU, 11, 20), (PCMA, 999, 1000), (G722, 15, 20)),
        *((GSM, 1, 20), (GSM, 20, 20), (GSM, 30, 40), (G723, 1, 30), (G723, 31, 60), (G729, 25, 30)),
    ],
)
def test_lengths_are_raised_to_what_the_codec_permits(kind, ms, payload_ms):
    framing = FRAMINGS[kind]
    frames = 8000 // framing.units
    data = packet(1, 0, frames * bytes(framing.size), kind=kind)
    first, *_ = put(Resizer(ms), data)
    assert framing.measure(split_packet(first)[2]) == payload_ms * 8


@pytest.mark.parametrize(
    ("kind", "frame"),
    [(GSM, 33), (G729, 10), (G722, 160), (PCMA, 160), (G723, 24)],
)
def test_other_codecs(kind, frame):
    """Whole frames are joined and divided. Of G.722, no half is lost, as the C RTPproxy does."""
    units = FRAMINGS[kind].measure(bytes(frame))
    sound = [bytes((4 * number,)) + bytes(frame - 1) for number in range(4)]
    resizer = Resizer(2 * units // 8)
    assert put(resizer, packet(1, 0, sound[0], kind=kind)) == []
    assert put(resizer, packet(2, units, sound[1], kind=kind)) == [packet(1, 0, sound[0] + sound[1], kind=kind)]
    resizer = Resizer(units // 8)
    assert put(resizer, packet(1, 0, b"".join(sound), kind=kind)) == [
        packet(1 + number, number * units, one, kind=kind) for number, one in enumerate(sound)
    ]


def test_g723_frames_of_different_length():
    frames = [b"\0" + bytes(23), b"\2abc", b"\1" + bytes(19)]
    assert put(Resizer(30), packet(1, 0, b"".join(frames), kind=G723)) == [
        packet(1 + number, number * 240, frame, kind=G723) for number, frame in enumerate(frames)
    ]


def test_nothing_follows_comfort_noise_of_g729():
    resizer = Resizer(40)
    assert put(resizer, packet(1, 0, bytes(10) + b"ab", kind=G729)) == []
    assert put(resizer, packet(2, 160, bytes(20), kind=G729)) == [packet(1, 0, bytes(10) + b"ab", kind=G729)]
    assert list(resizer.drain()) == [packet(2, 160, bytes(20), kind=G729)]


def test_comfort_noise_of_g729_is_divided_off():
    assert put(Resizer(10), packet(1, 0, b"0123456789ab", kind=G729)) == [
        packet(1, 0, b"0123456789", kind=G729),
        packet(2, 80, b"ab", kind=G729),
    ]


# Order, gaps, what is late


def test_order_is_that_of_timestamps():
    resizer = Resizer(40)
    for number in (0, 3, 1):
        assert put(resizer, ten_ms(number)) == []
    assert put(resizer, ten_ms(2)) == [packet(100, 0, voice(320))]


def test_a_gap_ends_a_packet():
    resizer = Resizer(40)
    for number in (0, 2):
        assert put(resizer, ten_ms(number)) == []
    assert put(resizer, ten_ms(3)) == []
    assert put(resizer, ten_ms(4)) == [packet(100, 0, voice(80))]
    assert put(resizer, ten_ms(5)) == [packet(101, 160, voice(320, 160))]
    assert resizer.discarded == 0


def test_what_is_older_than_what_was_sent_is_discarded():
    resizer = Resizer(10)
    assert put(resizer, ten_ms(5)) == [ten_ms(5)]
    assert put(resizer, ten_ms(4)) == []
    assert put(resizer, ten_ms(5)) == []
    assert resizer.discarded == 2
    assert put(resizer, ten_ms(6)) == [ten_ms(6)]


@pytest.mark.parametrize("timestamp", [0, 79, 1, 80, 81, 239])
def test_what_is_there_already_is_discarded(timestamp):
    resizer = Resizer(100)
    put(resizer, packet(1, 0, voice(80)))
    put(resizer, packet(2, 80, voice(160)))
    put(resizer, packet(3, timestamp, voice(80)))
    assert (resizer.waiting, resizer.discarded) == (2, 1)
    assert put(resizer, packet(4, 240, voice(80))) == []
    assert resizer.waiting == 3


def test_what_reaches_into_the_next_is_discarded():
    resizer = Resizer(100)
    put(resizer, packet(2, 100, voice(80)))
    put(resizer, packet(1, 0, voice(101)))
    assert resizer.discarded == 1
    put(resizer, packet(1, 0, voice(100)))
    assert resizer.discarded == 1


def test_other_payload_types_are_not_joined():
    resizer = Resizer(20)
    assert put(resizer, packet(1, 0, voice(80))) == []
    assert put(resizer, packet(2, 80, voice(80), kind=PCMA)) == [packet(1, 0, voice(80))]
    assert put(resizer, packet(3, 160, voice(80), kind=PCMA)) == [packet(2, 80, voice(80) + voice(80), kind=PCMA)]


def test_marker_is_that_of_the_first():
    resizer = Resizer(20)
    put(resizer, packet(1, 0, voice(80), marker=True))
    assert put(resizer, packet(2, 80, voice(80))) == [packet(1, 0, voice(80) + voice(80), marker=True)]
    put(resizer, packet(3, 160, voice(80)))
    assert put(resizer, packet(4, 240, voice(80), marker=True)) == [packet(2, 160, voice(80) + voice(80))]


def test_wrap_around():
    """Of timestamps after 2**32 - 1, of numbers after 65535."""
    resizer = Resizer(20)
    start = 2**32 - 240
    put(resizer, ten_ms(0, 65535, start))
    assert put(resizer, ten_ms(1, 65535, start)) == [packet(65535, start, voice(160))]
    put(resizer, ten_ms(3, 65535, start))
    assert put(resizer, ten_ms(2, 65535, start)) == [packet(0, start + 160, voice(160, 160))]
    assert put(resizer, ten_ms(1, 65535, start)) == []
    assert resizer.discarded == 1


# Other senders


def test_another_ssrc_starts_new_timestamps_and_goes_on_numbering():
    resizer = Resizer(20)
    put(resizer, ten_ms(0, start=8000))
    assert put(resizer, packet(3, 0, voice(160), ssrc=9)) == [
        packet(100, 8000, voice(80)),
        packet(101, 0, voice(160), ssrc=9),
    ]


@pytest.mark.parametrize("jump", [MAX_SPAN_UNITS + 1, -MAX_SPAN_UNITS - 1, 2**31, 2**31 - 1])
def test_new_timestamps_of_the_same_sender(jump):
    """The C RTPproxy discards what comes after a jump backwards, for up to three days."""
    resizer = Resizer(20)
    start = 10**6
    assert put(resizer, packet(1, start, voice(160))) == [packet(1, start, voice(160))]
    assert put(resizer, packet(2, start + 160 + jump, voice(160))) == [packet(2, start + 160 + jump, voice(160))]
    assert put(resizer, packet(3, start + 320 + jump, voice(80))) == []
    assert list(resizer.drain()) == [packet(3, start + 320 + jump, voice(80))]
    assert resizer.discarded == 0


def test_a_jump_within_bounds_is_late_or_a_pause():
    resizer = Resizer(20)
    start = 10**6
    put(resizer, packet(1, start, voice(160)))
    assert put(resizer, packet(2, start + 160 - MAX_SPAN_UNITS, voice(160))) == []
    assert resizer.discarded == 1
    late = packet(3, start + 160 + MAX_SPAN_UNITS, voice(160))
    assert put(resizer, late) == [packet(2, start + 160 + MAX_SPAN_UNITS, voice(160))]


# Waiting


@pytest.mark.parametrize(("ms", "wait_s"), [(10, 0.04), (20, 0.04), (30, 0.06), (999, 1.998)])
def test_what_waited_long_enough_is_sent(ms, wait_s):
    resizer = Resizer(ms)
    put(resizer, packet(1, 0, voice(40)), 1.0)
    assert resizer.due(1.0 + wait_s - 0.001) == []
    assert list(resizer.due(1.0 + wait_s + 0.001)) == [packet(1, 0, voice(40))]
    assert resizer.due(9.0) == []


def test_a_packet_that_comes_late_sends_what_waited():
    """Without timer, as the C RTPproxy."""
    resizer = Resizer(20)
    put(resizer, ten_ms(0), 0.0)
    assert put(resizer, ten_ms(2), 0.05) == [packet(100, 0, voice(80))]


def test_another_length_holds_from_the_next_packet_on():
    resizer = Resizer(20)
    put(resizer, ten_ms(0))
    resizer.set_length(30)
    assert resizer.packet_ms == 30
    assert put(resizer, ten_ms(1)) == []
    assert put(resizer, ten_ms(2)) == [packet(100, 0, voice(240))]


def test_all_is_sent_or_thrown_away_at_the_end():
    resizer = Resizer(60)
    put(resizer, ten_ms(0))
    put(resizer, ten_ms(2))
    assert list(resizer.drain()) == [packet(100, 0, voice(80)), packet(101, 160, voice(80, 160))]
    assert resizer.drain() == []
    put(resizer, ten_ms(3))
    put(resizer, ten_ms(5))
    assert (resizer.discard(), resizer.discard(), resizer.waiting) == (2, 0, 0)
    for number in (6, 7, 8, 9, 10):
        assert put(resizer, ten_ms(number)) == [], "nothing that was thrown away is counted as waiting"


# What passes unchanged, and parts of headers


@pytest.mark.parametrize(
    "data",
    [
        packet(1, 0, b"", kind=PCMU),
        packet(1, 0, b"\5\0\0\xa0", kind=EVENT),
        packet(1, 0, bytes(10), kind=13),
        packet(1, 0, bytes(32), kind=GSM),
        packet(1, 0, b"\3" + bytes(23), kind=G723),
        packet(1, 0, bytes(MAX_UNITS + 1)),
        packet(1, 0, bytes(MAX_BYTES - 11), kind=G729),
        packet(1, 0, 800 * b"\2\0\0\0", kind=G723),
        packet(1, 0, b"\0\0\3", flags=0xA0),  # padding only
        b"",
        b"\x80",
        bytes.fromhex("000100002112a442") + bytes(12),
        packet(1, 0, bytes(20), kind=72),
        b"\x80\xc8" + bytes(30),
    ],
)
def test_what_passes_unchanged(data):
    resizer = Resizer(10)
    put(resizer, packet(7, 0, voice(40)))
    assert put(resizer, data) is None
    assert (resizer.waiting, resizer.discarded) == (1, 0)


CSRCS = b"\0\0\0\x21\0\0\0\x22"
EXTENSION = b"\xbe\xde\0\1\x10\xaa\0\0"


def test_the_header_of_the_first_is_kept_and_padding_left_out():
    resizer = Resizer(20)
    first = packet(1, 0, voice(80), flags=0x92, rest=CSRCS + EXTENSION)
    second = packet(2, 80, voice(80, 80) + b"\0\0\3", flags=0xB1, rest=b"\0\0\0\x23" + EXTENSION)
    assert put(resizer, first) == []
    assert put(resizer, second) == [packet(1, 0, voice(160), flags=0x92, rest=CSRCS + EXTENSION)]


def test_what_is_divided_off_keeps_the_csrc_list_only():
    """So a long extension is not sent again with each part."""
    whole = packet(1, 0, voice(240) + b"\1", flags=0xB2, rest=CSRCS + EXTENSION, marker=True)
    assert put(Resizer(10), whole) == [
        packet(1, 0, voice(80), flags=0x92, rest=CSRCS + EXTENSION, marker=True),
        packet(2, 80, voice(80, 80), flags=0x82, rest=CSRCS),
        packet(3, 160, voice(80, 160), flags=0x82, rest=CSRCS),
    ]


# Hostile senders


def test_tiny_packets_do_not_pile_up():
    resizer = Resizer(999)
    made = []
    for number in range(1000):
        made += put(resizer, packet(number, 2 * number, b"x"))
        assert resizer.waiting <= MAX_QUEUED
    assert len(made) == 1000 - MAX_QUEUED


def test_no_more_sound_than_anybody_can_speak():
    resizer = Resizer(10)
    made, second = 0, voice(8000)
    for number in range(1000):  # a hundred times as fast as real time
        made += len(put(resizer, packet(number, 8000 * number, second), number / 100))
    most = (MAX_BURST_UNITS + 10 * MAX_SPEED * 8000) // 80
    assert most - 100 <= made <= most
    assert resizer.discarded == 1000 - made // 100
    assert len(put(resizer, packet(1000, 8000 * 1000, second), 60.0)) == 100


# Anything


@st.composite
def in_order(draw):
    """Packets without gap: payload type, payloads, first timestamp and number, and the length asked for."""
    kind = draw(st.sampled_from(sorted(FRAMINGS)))
    framing = FRAMINGS[kind]
    if kind == G723:
        frames = st.sampled_from([b"\0" + bytes(23), b"\1" + bytes(19), b"\2abc"])
        payloads = draw(st.lists(st.lists(frames, min_size=1, max_size=8).map(b"".join), min_size=1, max_size=12))
    else:
        sizes = st.integers(1, 2400 // framing.units).map(lambda frames: frames * framing.size)
        payloads = [voice(size, 7 * place) for place, size in enumerate(draw(st.lists(sizes, min_size=1, max_size=12)))]
    timestamps, numbers = st.integers(0, 2**32 - 1), st.integers(0, 65535)
    return kind, payloads, draw(timestamps), draw(numbers), draw(st.integers(1, 999))


@given(in_order())
@example((PCMU, [voice(80)] * 8, 2**32 - 200, 65534, 20))
def test_streams_in_order_lose_and_change_nothing(stream):
    """Sound out is sound in; numbers and timestamps are continuous; all have the length asked for, but for the last."""
    kind, payloads, start, number, ms = stream
    framing, resizer = FRAMINGS[kind], Resizer(ms)
    target = -(-ms * 8 // framing.step_units) * framing.step_units
    made, timestamp = [], start
    for place, payload in enumerate(payloads):
        made += put(resizer, packet(number + place, timestamp, payload, kind=kind, marker=place == 0))
        timestamp += framing.measure(payload)
    made += resizer.drain()
    headers = [parse_rtp(data) for data in made]
    sound = [split_packet(data)[2] for data in made]
    lengths = [framing.measure(one) for one in sound]
    assert b"".join(sound) == b"".join(payloads)
    assert lengths[:-1] == [target] * (len(made) - 1)
    assert 0 < lengths[-1] <= target
    assert [header.sequence for header in headers] == [(number + place) % 65536 for place in range(len(made))]
    assert [header.timestamp for header in headers] == [(start + target * place) % 2**32 for place in range(len(made))]
    assert [header.marker for header in headers] == [True] + [False] * (len(made) - 1)
    assert {(header.payload_type, header.ssrc) for header in headers} == {(kind, SSRC)}
    assert resizer.discarded == 0


near = st.integers(-5, 25).map(lambda place: place * 40)
steps = st.tuples(
    st.one_of(near, near, st.integers(0, 2**32 - 1)),
    st.sampled_from([PCMU, PCMU, PCMU, PCMA, G729, GSM, G723, EVENT]),
    st.integers(0, 400),
    st.sampled_from([1, 1, 1, 2]),
    st.sampled_from([0.0, 0.01, 0.03, 0.5]),
)


@given(st.integers(1, 200), st.lists(steps, max_size=60))
@example(10, [(0, PCMU, 80, 1, 0.0), (-80, PCMU, 80, 1, 0.0)])
def test_any_packets_against_a_model(ms, stream):
    """Each byte of sound goes out once, with the timestamp that it came with, or its packet is counted as discarded.

    Only what nothing overlaps and what is not late by then is taken; the model finds out what was by the counts.
    """
    resizer, now = Resizer(ms), 0.0
    taken, made = [], []
    for place, (timestamp, kind, size, ssrc, pause) in enumerate(stream):
        now += pause
        data = packet(place, timestamp, bytes([place]) * size, kind=kind, ssrc=ssrc)
        before = resizer.discarded
        out = put(resizer, data, now)
        if out is None:
            assert kind == EVENT or not 0 < FRAMINGS[kind].measure(bytes([place]) * size) <= MAX_UNITS
            assert resizer.discarded == before
            continue
        if resizer.discarded == before:
            taken.append(data)
        else:
            assert resizer.discarded == before + 1
        made += out
        assert resizer.waiting <= MAX_QUEUED
    made += resizer.drain()
    assert sorted(pieces(made)) == sorted(pieces(taken))
    headers = [parse_rtp(data) for data in made]
    for first, second in pairwise(headers):
        assert second.sequence == (first.sequence + 1) % 65536
    for data, header in zip(made, headers, strict=True):
        framing = FRAMINGS[header.payload_type]
        target = -(-ms * 8 // framing.step_units) * framing.step_units
        assert 0 < framing.measure(split_packet(data)[2]) <= target


def pieces(packets):
    """List the frames of packets: SSRC, payload type, timestamp, bytes."""
    for data in packets:
        header, payload = parse_rtp(data), split_packet(data)[2]
        framing, timestamp = FRAMINGS[header.payload_type], header.timestamp
        while payload:
            size = min(framing.head_size(payload, framing.units), len(payload))
            yield header.ssrc, header.payload_type, timestamp % 2**32, payload[:size]
            payload, timestamp = payload[size:], timestamp + framing.units


@given(st.integers(1, 999), st.lists(st.tuples(st.binary(max_size=60), st.booleans()), max_size=30))
def test_any_datagrams_raise_nothing(ms, datagrams):
    resizer = Resizer(ms)
    for place, (data, is_rtp) in enumerate(datagrams):
        put(resizer, b"\x80\0" + data if is_rtp else data, place / 100)
    resizer.drain()
    assert resizer.waiting == 0
