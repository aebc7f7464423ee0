"""Classic pcap files, byte for byte (protocol.md 8.5)."""

import struct

from rtpproxy.recording import pcap
from rtpproxy.recording.frames import Frames
from tests.recording.packets import BEGIN_NS, packet, read_pcap


def test_file_header():
    assert pcap.Pcap.begin == struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    assert len(pcap.Pcap.begin) == 24


def test_packet():
    data = pcap.Pcap(Frames()).packet(packet(1), BEGIN_NS, 0)
    frame = Frames().frame(packet(1))
    assert data == struct.pack("=IIII", 1_790_000_000, 123_456, len(frame), len(frame)) + frame


def test_a_frame_beyond_the_limit_is_cut_and_says_so():
    data = pcap.Pcap(Frames()).packet(packet(1, payload=bytes(65507)), BEGIN_NS, 0)
    assert struct.unpack_from("=II", data, 8) == (65535, 65507 + 42)
    assert len(data) == 16 + 65535
    assert pcap.read(data, 0) == (16, len(data))


def test_nothing_tells_what_is_missing():
    form = pcap.Pcap(Frames())
    assert form.end(3, 4, BEGIN_NS) == b""
    assert pcap.Pcap(Frames()).packet(packet(1), BEGIN_NS, 5) == pcap.Pcap(Frames()).packet(packet(1), BEGIN_NS, 0)


def test_reading_what_is_no_whole_packet():
    data = pcap.Pcap(Frames()).packet(packet(1), BEGIN_NS, 0)
    assert pcap.read(b"##" + data, 2) == (18, 2 + len(data))
    for length in range(len(data)):
        assert pcap.read(data[:length], 0) is None
    assert pcap.read(data[:8] + struct.pack("=I", 65536) + bytes(70000), 0) is None


def test_scapy_reads_it(tmp_path):
    form, path = pcap.Pcap(Frames()), tmp_path / "file.pcap"
    packets = [packet(number, is_ipv6=number % 2 == 1) for number in range(10)]
    path.write_bytes(form.begin + b"".join(form.packet(one, BEGIN_NS + one.arrived_ns, 0) for one in packets))
    read = read_pcap(path)
    assert [one.payload for one in read] == [one.payload for one in packets]
    assert [one.time_us for one in read] == [(BEGIN_NS + one.arrived_ns) // 1000 for one in packets]
