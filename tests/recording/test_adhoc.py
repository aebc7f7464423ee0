"""RTPproxy's own format, byte for byte (protocol.md 8.3)."""

import struct

import pytest

from rtpproxy.recording import adhoc
from tests.recording.packets import BEGIN_NS, PHONE, PHONE_6, packet


def test_ipv4():
    data = adhoc.AdHoc().packet(packet(1, payload=b"abc"), BEGIN_NS, 0)
    assert data[:20] == struct.pack("=H", 2) + (4000).to_bytes(2, "big") + bytes((10, 0, 1, 2)) + bytes(12)
    assert data[20:28] == struct.pack("=d", BEGIN_NS / 1e9)
    assert data[28:] == struct.pack("=H", 3) + b"abc"


def test_ipv6():
    data = adhoc.AdHoc().packet(packet(1, is_ipv6=True, payload=b""), BEGIN_NS, 0)
    assert data[:20] == struct.pack("=H", 10) + (4000).to_bytes(2, "big") + PHONE_6.host
    assert data[28:] == bytes(2)


def test_time_is_true_to_the_microsecond():
    (arrived,) = struct.unpack_from("=d", adhoc.AdHoc().packet(packet(1), BEGIN_NS, 0), 20)
    assert abs(arrived * 1e6 - BEGIN_NS / 1000) < 1


def test_a_file_is_nothing_but_its_packets():
    form = adhoc.AdHoc()
    assert form.begin == form.end(5, 1, BEGIN_NS) == b""
    assert form.packet(packet(7), BEGIN_NS, 3) == form.packet(packet(7), BEGIN_NS, 0)


@pytest.mark.parametrize("is_ipv6", [False, True])
def test_reading(is_ipv6):
    data = adhoc.AdHoc().packet(packet(1, is_ipv6=is_ipv6, payload=b"abc"), BEGIN_NS, 0)
    assert adhoc.read(b"###" + data, 3) == (PHONE_6 if is_ipv6 else PHONE, BEGIN_NS / 1e9, 3 + len(data))


def test_reading_what_is_no_whole_packet():
    data = adhoc.AdHoc().packet(packet(1, payload=b"abc"), BEGIN_NS, 0)
    for length in range(len(data)):
        assert adhoc.read(data[:length], 0) is None
    assert adhoc.read(b"\3" + data[1:], 0) is None
