"""Parsing of RTP headers (protocol.md 5.8), and packets taken apart and made."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.rtp.header import RtpHeader, make_packet, parse_rtp, split_packet


def packet(flags=0x80, kind=0, payload=b"", sequence=7, timestamp=160, ssrc=0xDEADBEEF):
    return struct.pack(">BBHII", flags, kind, sequence, timestamp, ssrc) + payload


@pytest.mark.parametrize("wrap", [bytes, memoryview])
def test_fields(wrap):
    data = wrap(packet(kind=0x80 | 101, payload=b"abc", sequence=65535, timestamp=2**32 - 1))
    assert parse_rtp(data) == RtpHeader(0xDEADBEEF, 65535, 2**32 - 1, 101, True)
    assert isinstance(parse_rtp(data), RtpHeader)


def test_without_marker():
    header = parse_rtp(packet(kind=127))
    assert header is not None
    assert (header.payload_type, header.marker) == (127, False)


VALID = {
    "header only": packet(),
    "csrc": packet(0x82, payload=bytes(8)),
    "extension of no words": packet(0x90, payload=b"\xbe\xde\0\0"),
    "extension of one word": packet(0x90, payload=b"\xbe\xde\0\1" + bytes(4)),
    "csrc and extension": packet(0x91, payload=bytes(4) + b"\0\0\0\1" + bytes(4) + b"voice"),
    "all padding": packet(0xA0, payload=b"\0\0\3"),
    "one byte of padding": packet(0xA0, payload=b"\1"),
    "all of it": packet(0xB1, payload=bytes(4) + b"\0\0\0\1" + bytes(4) + b"\1"),
    "reserved payload type": packet(kind=72),
    "below rtcp": packet(kind=199),
    "above rtcp": packet(kind=214),
    "above rtcp, with csrc": packet(0x81, kind=255, payload=bytes(4)),
}
INVALID = {
    "empty": b"",
    "one byte": b"\x80",
    "eleven bytes": packet()[:11],
    "version 0": packet(0x00),
    "version 1": packet(0x40),
    "version 3": packet(0xC0),
    "rtcp, sender report": packet(kind=200),
    "rtcp, receiver report with a block": packet(0x81, kind=201, payload=bytes(20)),
    "rtcp, the last type": packet(kind=213),
    "stun": bytes.fromhex("000100002112a442") + bytes(12),
    "csrc too long": packet(0x82, payload=bytes(7)),
    "no room for the extension header": packet(0x90, payload=bytes(3)),
    "extension too long": packet(0x90, payload=b"\0\0\0\1" + bytes(3)),
    "extension after csrc too long": packet(0x91, payload=bytes(4) + b"\0\0\0\2" + bytes(7)),
    "no padding length": packet(0xA0),
    "padding of none": packet(0xA0, payload=b"\1\0"),
    "padding too long": packet(0xA0, payload=b"\0\3"),
    "padding into the extension": packet(0xB0, payload=b"\0\0\0\0\2"),
}


@pytest.mark.parametrize("data", VALID.values(), ids=VALID)
def test_valid(data):
    assert parse_rtp(data) is not None


@pytest.mark.parametrize("data", INVALID.values(), ids=INVALID)
def test_invalid(data):
    assert parse_rtp(data) is None


@given(st.binary(max_size=80))
def test_any_datagram_is_read_within_its_bounds(data):
    header = parse_rtp(data)
    if header is not None:
        assert data[0] >> 6 == 2
        assert data[1] not in range(200, 214)
        assert header == (
            int.from_bytes(data[8:12]), int.from_bytes(data[2:4]), int.from_bytes(data[4:8]),
            data[1] & 127, data[1] >= 128,
        )  # fmt: skip


CSRCS = b"\0\0\0\x21\0\0\0\x22"
EXTENSION = b"\xbe\xde\0\1\x10\xaa\0\0"


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (packet(payload=b"voice"), (packet(), b"", b"voice")),
        (packet(0x82, payload=CSRCS + b"voice"), (packet(0x82) + CSRCS, b"", b"voice")),
        (packet(0x90, payload=EXTENSION + b"voice"), (packet(0x90), EXTENSION, b"voice")),
        (packet(0xA0, payload=b"voice\0\0\3"), (packet(0xA0), b"", b"voice")),
        (packet(0xB2, payload=CSRCS + EXTENSION + b"voice\1"), (packet(0xB2) + CSRCS, EXTENSION, b"voice")),
        (packet(0xA0, payload=b"\1"), (packet(0xA0), b"", b"")),
    ],
)
def test_parts(data, parts):
    assert split_packet(data) == parts


def test_a_packet_is_made():
    header = packet(0xB2, 0x80 | 8, sequence=1, timestamp=2) + CSRCS
    made = make_packet(header, EXTENSION, 65535, 2**32 - 1, False, b"voice")
    assert made == packet(0x92, 8, CSRCS + EXTENSION + b"voice", 65535, 2**32 - 1)
    made = make_packet(header, b"", 7, 9, True, b"voice")
    assert made == packet(0x82, 0x80 | 8, CSRCS + b"voice", 7, 9)


@given(st.binary(max_size=80))
def test_any_packet_without_padding_is_made_again_of_its_parts(data):
    header = parse_rtp(data)
    if header is not None and not data[0] & 0x20:
        fixed, extension, payload = split_packet(data)
        assert make_packet(fixed, extension, header.sequence, header.timestamp, header.marker, payload) == data
