"""Messages between the relay and the process that writes: what is encoded is decoded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.config import RecordFormat
from rtpproxy.recording.messages import (
    MAX_BYTES,
    ROOM_BYTES,
    Aim,
    Close,
    Collected,
    Directories,
    Ended,
    Found,
    Join,
    Leave,
    Lost,
    MapRing,
    NoDirectory,
    Noticed,
    Open,
    OpenCopy,
    OpenTap,
    Packets,
    Progress,
    Reports,
    Sent,
    Several,
    Teed,
    To,
    decode,
    encode,
    encode_packet,
    encode_packets,
    encode_several,
)
from rtpproxy.recording.packet import Packet, Place

number = st.integers(1, 2**32 - 1)
numbers = st.lists(number, max_size=9).map(tuple)
time_ns = st.integers(0, 2**63)
count = st.integers(0, 2**63)
name = st.binary(max_size=255)
text = st.text(max_size=80)
place_4 = st.builds(Place, st.binary(min_size=4, max_size=4), st.integers(0, 65535))
place_6 = st.builds(Place, st.binary(min_size=16, max_size=16), st.integers(0, 65535))
places = st.one_of(st.tuples(place_4, place_4), st.tuples(place_6, place_6))
packet = st.builds(lambda at, ends, data: Packet(at, *ends, data), time_ns, places, st.binary(max_size=200))
messages = st.one_of(
    st.builds(Directories, st.booleans(), st.booleans()),
    st.just(NoDirectory()),
    st.builds(MapRing, number, text, number),
    st.builds(
        *(Open, number, st.sampled_from(RecordFormat), st.booleans(), count, name, name, text),
        *(count, numbers),
    ),
    st.builds(OpenCopy, number, count, count, count, count, numbers),
    st.builds(
        *(OpenTap, number, text, st.binary(max_size=999), st.none() | st.integers(0, 127)),
        *(count, count, count, numbers),
    ),
    st.builds(Noticed, number, st.binary(max_size=999)),
    st.builds(Aim, number, st.none() | st.builds(To, text, st.integers(1, 65535), number), st.booleans()),
    st.builds(Teed, number, numbers),
    st.builds(Join, number, number, time_ns, st.none() | places),
    st.builds(Packets, st.lists(st.tuples(number, packet), max_size=5).map(tuple)),
    st.builds(Lost, number, time_ns, count),
    st.builds(Leave, number, time_ns),
    st.builds(Close, number, time_ns),
    st.builds(Ended, number, count, st.booleans(), text, count, count),
    st.builds(Collected, st.builds(Reports, *[st.integers(-(2**63), 2**63 - 1)] * 5), text),
    st.builds(Progress, st.lists(st.builds(Sent, number, count, count), max_size=9).map(tuple)),
    st.builds(Found, name, count, st.booleans(), text),
)


@given(messages)
def test_what_is_encoded_is_decoded(message):
    assert decode(encode(message)) == message


@given(st.lists(messages, max_size=5))
def test_several(parts):
    message = Several(tuple(parts))
    assert decode(encode(message)) == message
    assert encode_several(map(encode, parts)) == encode(message)


def test_packets_that_were_encoded_one_by_one():
    packets = [(n, Packet(n, Place(bytes(4), n), Place(bytes(4), n), bytes(n))) for n in range(20)]
    assert decode(encode_packets(encode_packet(*one) for one in packets)) == Packets(tuple(packets))


@pytest.mark.parametrize("host_bytes", [4, 16])
def test_the_longest_packet_fits(host_bytes):
    place = Place(bytes(host_bytes), 1)
    longest = encode_packets([encode_packet(1, Packet(1, place, place, bytes(65535)))])
    assert len(longest) < ROOM_BYTES
    assert len(longest) + MAX_BYTES < ROOM_BYTES + MAX_BYTES
