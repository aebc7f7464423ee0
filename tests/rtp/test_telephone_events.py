"""Telephone events from trains of packets as phones send them, and from any other (RFC 4733; protocol.md 13.3)."""

import itertools
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.rtp import RTP, RTPExtension
from scapy.packet import Raw

from rtpproxy.rtp.telephone_events import (
    MOST_BLOCKS,
    REMEMBERED,
    SILENCE_NS,
    Event,
    EventDetector,
    decode,
    encode_event,
    encode_untold,
    payload_of,
    read_blocks,
)

SSRC = 0xCAFE
MS = 1_000_000
STEP = 400
"""Timestamp units between two packets of an event: 50 ms."""


def block(code=5, *, is_end=False, duration=STEP, volume=10):
    return struct.pack(">BBH", code, is_end << 7 | volume, duration)


def packet(payload, timestamp=8000, *, marker=0, ssrc=SSRC, sequence=0, **fields):
    return bytes(
        RTP(payload_type=101, marker=marker, sequence=sequence, timestamp=timestamp, sourcesync=ssrc, **fields)
        / Raw(payload)
    )


def train(code=5, timestamp=8000, updates=3, *, ends=3, **fields):
    """The packets of one event: updates, then the end, repeated."""
    marked = {"marker": 1}
    sent = []
    for number in range(1, updates + 1):
        sent.append(packet(block(code, duration=number * STEP), timestamp, **fields, **(marked if number == 1 else {})))
    last = block(code, is_end=True, duration=(updates + 1) * STEP)
    return sent + [packet(last, timestamp, **fields)] * ends


def events(packets, detector=None, step_ns=50 * MS):
    """All events of packets that arrive one after the other, and those that end without an end."""
    detector = detector or EventDetector()
    found = []
    now_ns = 0
    for now_ns, one in enumerate(packets):
        found += detector.packet(one, now_ns * step_ns)
    return found + detector.silent(now_ns * step_ns + SILENCE_NS)


def digits(packets):
    return b"".join(event.digit for event in events(packets))


def pressed(text, **fields):
    """Trains of digits, a second apart."""
    codes = ["0123456789*#ABCD ".index(one) for one in text]
    return [train(code, 8000 * number, **fields) for number, code in enumerate(codes, 1)]


def test_an_event_is_told_once_with_what_was_largest():
    assert events(train()) == [Event(b"5", 10, 4 * STEP, SSRC, 8000)]


def test_it_is_told_with_the_first_end():
    detector = EventDetector()
    sent = train()
    assert [len(detector.packet(one, 0)) for one in sent] == [0, 0, 0, 1, 0, 0]


def test_all_digits():
    assert digits(itertools.chain(*pressed("0123456789*#ABCD "))) == b"0123456789*#ABCD "


@pytest.mark.parametrize("code", [17, 32, 255])
def test_other_events_are_ignored(code):
    assert events(train(code)) == []


def test_a_lone_end_tells_nothing():
    assert events(train(updates=0, ends=1)) == []


def test_an_end_that_comes_twice_is_enough():
    """The rule asks for another packet, of whatever kind."""
    assert len(events(train(updates=0, ends=2))) == 1


def test_an_end_that_comes_first_tells_nothing_until_silence():
    start, end = train(updates=1, ends=1)
    detector = EventDetector()
    assert detector.packet(end, 0) == detector.packet(start, 0) == []
    assert [event.duration for event in detector.silent(SILENCE_NS)] == [2 * STEP]


@pytest.mark.parametrize("lost", [*itertools.combinations(range(6), 1), *itertools.combinations(range(6), 2)])
def test_one_or_two_lost_packets_do_not_matter(lost):
    sent = [one for number, one in enumerate(train()) if number not in lost]
    assert digits(sent) == b"5"


def test_without_an_end_it_is_told_before_the_next_one():
    first, second, third = pressed("123")
    assert digits(first[:3] + second + third) == b"123"
    detector = EventDetector()
    assert [event.digit for one in first[:3] + second for event in detector.packet(one, 0)] == [b"1", b"2"]


def test_without_an_end_it_is_told_after_a_second_of_silence():
    detector = EventDetector()
    for one in train()[:3]:
        detector.packet(one, 7 * MS)
    assert detector.silent(7 * MS + SILENCE_NS - 1) == []
    assert detector.silent(7 * MS + SILENCE_NS) == [Event(b"5", 10, 3 * STEP, SSRC, 8000)]
    assert detector.silent(9 * SILENCE_NS) == []
    assert detector.packet(train()[-1], 9 * SILENCE_NS) == []


def test_one_packet_is_no_event():
    assert events(train()[:1]) == []


def test_repeats_of_an_end_among_packets_of_the_next_event():
    first, second = pressed("12")
    assert digits([*first[:4], *second[:2], *first[4:], *second[2:], *first]) == b"12"


def test_events_that_overlap():
    """One lies within the other: each is told with its own end and its whole duration."""
    outer, inner = train(1, 8000, updates=9), train(2, 8800, updates=2)
    found = events([*outer[:3], *(one for pair in zip(inner, outer[3:], strict=False) for one in pair), *outer[8:]])
    assert [(event.digit, event.duration) for event in found] == [(b"2", 3 * STEP), (b"1", 10 * STEP)]


def test_another_ssrc_is_another_event():
    assert digits([*train(), *train(ssrc=7), *train()]) == b"55"


def test_another_code_at_the_same_time_is_none():
    """A timestamp has one event: that of its first packet."""
    first, *_ = train(5)
    assert digits([first, *train(6), *train(5)]) == b"5"


def test_late_repeats_of_a_forgotten_event_tell_nothing():
    trains = pressed("1234567890")
    assert digits([*itertools.chain(*trains), *trains[0], *trains[3]]) == b"1234567890"


def test_a_clock_that_was_set_far_back_is_believed():
    later = [train(1, 10_000_000 + 8000 * number) for number in range(REMEMBERED + 2)]
    assert digits([*itertools.chain(*later), *train(2, 100)]) == b"1" * len(later) + b"2"


def test_timestamps_wrap():
    assert digits([*train(1, 2**32 - 400), *train(2, 7600), *train(3, 15600)]) == b"123"


# Long events (RFC 4733 2.5.1.3)


def segments(count, code=5, timestamp=8000, last=3):
    """A long event: segments as long as they can be, and a shorter last one."""
    sent = []
    for number in range(count - 1):
        at = timestamp + number * 0xFFFF
        for duration in (*range(8000, 0xFFFF, 8000), 0xFFFF):
            is_first = number == 0 and duration == 8000
            sent.append(packet(block(code, duration=duration), at, marker=int(is_first)))
    at = timestamp + (count - 1) * 0xFFFF
    sent += [packet(block(code, duration=number * STEP), at) for number in range(1, last + 1)]
    return sent + [packet(block(code, is_end=True, duration=(last + 1) * STEP), at)] * 3


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_a_long_event_is_one(count):
    (event,) = events(segments(count))
    assert event == Event(b"5", 10, (count - 1) * 0xFFFF + 4 * STEP, SSRC, 8000)


def test_a_segment_may_begin_with_the_end():
    (event,) = events(segments(2, last=0)[:-2])
    assert event.duration == 0xFFFF + STEP


def test_the_last_packet_of_a_segment_may_be_lost():
    sent = segments(3)
    del sent[8], sent[16]
    (event,) = events(sent)
    assert event.duration == 2 * 0xFFFF + 4 * STEP


def test_packets_of_an_earlier_segment_change_nothing():
    sent = segments(2)
    (event,) = events([*sent[:10], sent[3], *sent[10:], *sent])
    assert event.duration == 0xFFFF + 4 * STEP


def test_the_same_digit_soon_after_is_another_event():
    """It has a marker; without one, that was lost, it would have to follow a segment at once."""
    first = [packet(block(duration=length), 8000, marker=int(length == 8000)) for length in range(8000, 0xF000, 8000)]
    (*_, last) = read_blocks(payload_of(first[-1]))
    after = 8000 + last.duration
    assert digits([*first, *train(5, after)]) == b"55"
    assert digits([*first, *train(5, after + 4000)[1:]]) == b"55"
    assert digits([*first, *train(5, after)[1:]]) == b"5"
    assert digits([*train(5, 8000), *train(5, 8000 + 4 * STEP)[1:]]) == b"55"


# Payloads


def test_events_that_follow_each_other_in_one_packet():
    """RFC 4733: the next one begins where the one before it ended."""
    both = block(1, is_end=True, duration=800) + block(2, duration=400)
    ended = block(1, is_end=True, duration=800) + block(2, is_end=True, duration=800)
    found = events([packet(both, 8000), packet(both, 8000), packet(ended, 8000), *train(2, 8800)])
    assert [(event.digit, event.duration, event.timestamp) for event in found] == [(b"1", 800, 8000), (b"2", 800, 8800)]


@pytest.mark.parametrize("size", [0, 1, 3, 5, 7, 160, 4 * MOST_BLOCKS + 4])
def test_lengths_that_no_event_has(size):
    payload = (block(is_end=True) * 50)[:size]
    assert not read_blocks(payload)
    assert events([packet(payload)] * 4) == []


FORMS = {
    "plain": {},
    "csrc": {"sync": [1, 2, 3], "numsync": 3},
    "extension": {"extension": 1},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("padding", [0, 1, 4, 40])
def test_headers_and_padding_are_passed_over(form, padding):
    """The C RTPproxy takes the header for 12 bytes."""

    def make(payload):
        head = RTP(payload_type=101, timestamp=8000, sourcesync=SSRC, padding=int(padding > 0), **FORMS[form])
        if form == "extension":
            head = head / RTPExtension(header_id=0xBEDE, header=[1, 2])
        return bytes(head / Raw(payload + (bytes(padding - 1) + bytes([padding]) if padding else b"")))

    sent = [make(block()), make(block(duration=800)), make(block(is_end=True, duration=1200))]
    assert [payload_of(one) for one in sent[:1]] == [block()]
    assert events(sent) == [Event(b"5", 10, 1200, SSRC, 8000)]


@given(st.lists(st.binary(max_size=60) | st.binary(min_size=12, max_size=60).map(lambda data: b"\x80\x65" + data[2:])))
@example([b"\xb1\x65" + bytes(10)])
def test_no_packet_breaks_it(packets):
    detector = EventDetector()
    for number, one in enumerate(packets):
        detector.packet(one, number)
        assert len(detector._heard) <= REMEMBERED
        assert len(detector._forgotten) <= REMEMBERED
    detector.silent(1 << 40)


@given(st.data(), st.integers(1, 30))
def test_an_event_is_told_at_most_once(data, count):
    """Whatever is lost, repeated or comes in another order."""
    sent = list(itertools.chain(*(train(number % 17, 8000 * number) for number in range(1, count + 1))))
    arrived = data.draw(st.lists(st.sampled_from(sent), max_size=4 * len(sent)))
    told = [event.timestamp for event in events(arrived)]
    assert len(told) == len(set(told))


@given(st.data(), st.integers(1, 12))
def test_what_comes_nearly_in_order_is_told_in_full(data, count):
    """Up to two packets of each event lost, any repeated, neighbours swapped."""
    arrived = []
    for number in range(1, count + 1):
        sent = train(number % 17, 8000 * number)
        lost = data.draw(st.sets(st.integers(0, len(sent) - 1), max_size=2))
        kept = [one for at, one in enumerate(sent) if at not in lost]
        if data.draw(st.booleans()):
            kept[0], kept[1] = kept[1], kept[0]
        arrived += [one for one in kept for _ in range(data.draw(st.integers(1, 3)))]
    assert [event.timestamp for event in events(arrived)] == [8000 * number for number in range(1, count + 1)]


@given(st.builds(Event, st.sampled_from([b"0", b"#", b" "]), *[st.integers(0, 63)], *[st.integers(0, 2**32 - 1)] * 3))
def test_events_as_bytes(event):
    assert decode(encode_event(event)) == event


def test_more_than_can_be_encoded_is_the_most():
    assert decode(encode_event(Event(b"1", 0, 1 << 40, 0, 0))).duration == 2**32 - 1
    assert decode(encode_untold(7)) == 7
