"""pcapng files: scapy and tshark read packets and times; how many are missing stands in options."""

import struct

from scapy.utils import RawPcapNgReader

from rtpproxy.recording import pcapng
from rtpproxy.recording.frames import Frames
from tests.recording.packets import BEGIN_NS, packet, read_pcap


def blocks(data):
    """Type and body of each block."""
    found, at = [], 0
    while at < len(data):
        kind, length = struct.unpack_from("=II", data, at)
        assert length % 4 == 0
        assert struct.unpack_from("=I", data, at + length - 4) == (length,)
        found.append((kind, data[at + 8 : at + length - 4]))
        at += length
    return found


def options(data):
    """Options of a block, in order."""
    found, at = [], 0
    while at < len(data):
        code, length = struct.unpack_from("=HH", data, at)
        found.append((code, data[at + 4 : at + 4 + length]))
        at += 4 + length + -length % 4
    assert found[-1] == (0, b"")
    assert at == len(data)
    return found[:-1]


def test_beginning():
    (section, about), (interface, of_interface) = blocks(pcapng.Pcapng(Frames(), "call: what the caller sends").begin)
    assert (section, interface) == (0x0A0D0D0A, 1)
    assert about[:16] == struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1)
    assert options(about[16:]) == [(1, b"call: what the caller sends"), (4, b"rtpproxy")]
    assert of_interface[:8] == struct.pack("=HHI", 1, 0, 65535)
    assert options(of_interface[8:]) == [(2, b"rtpproxy"), (9, b"\x09")]


def test_packet():
    ((kind, body),) = blocks(pcapng.Pcapng(Frames(), "").packet(packet(1, payload=b"abc"), BEGIN_NS, 0))
    frame = Frames().frame(packet(1, payload=b"abc"))
    assert kind == 6
    assert body == struct.pack("=IIIII", 0, BEGIN_NS >> 32, BEGIN_NS & 0xFFFFFFFF, 45, 45) + frame + bytes(3)


def test_packet_after_missing_ones():
    ((_, body),) = blocks(pcapng.Pcapng(Frames(), "").packet(packet(1, payload=b"ab"), BEGIN_NS, 7))
    assert options(body[20 + 44 :]) == [(4, struct.pack("=Q", 7))]


def test_end():
    ((kind, body),) = blocks(pcapng.Pcapng(Frames(), "").end(10, 3, BEGIN_NS))
    assert kind == 5
    assert body[:12] == struct.pack("=III", 0, BEGIN_NS >> 32, BEGIN_NS & 0xFFFFFFFF)
    counts = [(4, struct.pack("=Q", 13)), (5, struct.pack("=Q", 3))]
    assert options(body[12:]) == [(1, b"10 packets recorded, 3 lost"), *counts]


def test_reading_what_is_no_whole_block():
    data = pcapng.Pcapng(Frames(), "").packet(packet(1), BEGIN_NS, 0)
    assert pcapng.read(b"####" + data, 4) == (6, 4 + len(data))
    for length in range(len(data)):
        assert pcapng.read(data[:length], 0) is None
    assert pcapng.read(data[:-1] + b"\xff", 0) is None


def test_scapy_reads_it(tmp_path):
    form, path = pcapng.Pcapng(Frames(), "title"), tmp_path / "file.pcapng"
    packets = [packet(number, is_ipv6=number % 2 == 1) for number in range(10)]
    written = [form.packet(one, BEGIN_NS + one.arrived_ns, one.arrived_ns % 3) for one in packets]
    path.write_bytes(form.begin + b"".join(written) + form.end(10, 3, BEGIN_NS))
    assert [one.payload for one in read_pcap(path)] == [one.payload for one in packets]
    with RawPcapNgReader(str(path)) as reader:
        times = [meta.tshigh << 32 | meta.tslow for _, meta in reader]
    assert times == [BEGIN_NS + one.arrived_ns for one in packets]
