"""What the generator sends is right to the byte, and what a bare redirect passes arrives whole."""

import socket
import struct

import pytest
from scapy.all import IP, RTP, UDP, Ether, IPv6, Raw

from tests.bench.frames import FILLER, FIRST_SSRC, StreamSpec, frame_bytes
from tests.bench.generator import BareRedirect, Generator, Sink
from tests.netns import Topology
from tests.waiting import wait_for

pytestmark = [pytest.mark.root, pytest.mark.kernel]

ETHERTYPES = {4: 0x0800, 6: 0x86DD}
UDP_OFFSETS = {4: 34, 6: 54}
of_both_families = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module")
def topology():
    with Topology(ipv6=True) as topology:
        yield topology


def address(interface, version):
    return interface.ip6 if version == 6 else interface.ip


def caller_streams(topology, count, version=4):
    caller = topology.caller
    own, relay = address(caller, version), address(caller.gateway, version)
    return [StreamSpec(own, 10000 + 2 * n, relay, 20000 + 2 * n) for n in range(count)]


def capture(host, ifname, version):
    """A socket that gets the whole frames of one family coming in by one interface."""
    packets = host.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packets.bind((ifname, ETHERTYPES[version]))
    packets.settimeout(2.0)
    return packets


def rtp_frames(packets, count, version):
    """Of the frames captured, the generator's: over IPv6, neighbours are discovered by others."""
    frames = []
    while len(frames) < count:
        frame = packets.recv(2048)
        if len(frame) == frame_bytes(version):
            frames.append(frame)
    return frames


def expected_frame(phone, number, spec, sequence, stamp):
    rtp = RTP(payload_type=8, sequence=sequence, timestamp=sequence * 160, sourcesync=FIRST_SSRC + number)
    payload = bytes([FILLER] * 2) + stamp + bytes([FILLER] * 150)
    if spec.version == 6:
        ip = IPv6(src=spec.src_ip, dst=spec.dst_ip, hlim=64)
    else:
        ip = IP(src=spec.src_ip, dst=spec.dst_ip, id=0, flags="DF", ttl=64)
    ethernet = Ether(src=phone.mac, dst=phone.gateway.mac)
    return bytes(ethernet / ip / UDP(sport=spec.src_port, dport=spec.dst_port) / rtp / Raw(payload))


@of_both_families
def test_frames_are_right(topology, version):
    streams = caller_streams(topology, 3, version)
    with capture(topology.relay, topology.caller.gateway.ifname, version) as packets:
        with Generator(topology.caller, streams) as generator:
            assert generator.run(0.0305, interval_ns=1_000_000).packets == 31
        frames = rtp_frames(packets, 31, version)

    stamp_at = UDP_OFFSETS[version] + 22
    stamps = [frame[stamp_at : stamp_at + 8] for frame in frames]
    assert frames == [
        expected_frame(topology.caller, number % 3, streams[number % 3], number // 3, stamps[number])
        for number in range(31)
    ]
    assert {len(frame) for frame in frames} == {UDP_OFFSETS[version] + 8 + 172}
    times = [struct.unpack("=Q", stamp)[0] for stamp in stamps]
    assert times == sorted(set(times))


def test_streams_go_on_in_the_next_run(topology):
    streams = caller_streams(topology, 1)
    with capture(topology.relay, topology.caller.gateway.ifname, 4) as packets:
        with Generator(topology.caller, streams) as generator:
            generator.run(0.0015, interval_ns=1_000_000)
            generator.run(0.0015, interval_ns=1_000_000)
        sequences = [struct.unpack("!H", packets.recv(2048)[44:46])[0] for _ in range(4)]
    assert sequences == [0, 1, 2, 3]


@of_both_families
@pytest.mark.parametrize("interval_ns", [0, 12_500])
def test_bare_redirect_loses_nothing(topology, interval_ns, version):
    caller, callee = topology.caller, topology.callee
    with (
        Sink(callee, 20000, 20999, version=version, verify_every=1) as sink,
        BareRedirect(topology, caller, callee),
        Generator(caller, caller_streams(topology, 500, version)) as generator,
    ):
        sent = generator.run(0.3, interval_ns)
        wait_for(lambda: sink.counts().packets >= sent.packets, 1.0, "all packets to arrive")
        counts, delays = sink.counts(), sink.delays()
        sink.reset()
        assert (sink.counts().packets, sink.delays().max_us) == (0, 0)

    assert 0 < delays.p50_us <= delays.p99_us <= delays.max_us
    assert counts.packets == counts.verified == sent.packets
    assert counts.bytes == sent.packets * frame_bytes(version)
    assert (counts.wrong_length, counts.bad_ip_checksum, counts.bad_udp_checksum) == (0, 0, 0)
    assert sent.packets > 20_000
    if interval_ns:
        assert sent.packets == 24_000


def changed(frame, offset, value):
    """The frame with other bytes at `offset`."""
    return frame[:offset] + value + frame[offset + len(value) :]


# The time to live is covered by the IPv4 header's checksum, the last byte of an address by that of UDP over IPv6.
@pytest.mark.parametrize(
    ("version", "in_header", "length_at", "bad_ip", "bad_udp"),
    [(4, 22, 16, 1, 1), (6, 37, 18, 0, 2)],
)
def test_sink_tells_what_is_not_right(topology, version, in_header, length_at, bad_ip, bad_udp):
    callee = topology.callee
    source, to = address(topology.caller, version), address(callee, version)
    udp_at = UDP_OFFSETS[version]
    good = expected_frame(callee, 0, StreamSpec(source, 10000, to, 20000), 0, bytes(8))
    frames = {
        "good": good,
        "bad payload": changed(good, len(good) - 1, b"\xd4"),
        "no UDP checksum": changed(good, udp_at + 6, bytes(2)),
        "bad header": changed(good, in_header, b"\x3f"),
        "other port": changed(good, udp_at + 2, struct.pack("!H", 30000)),
        "other family": changed(good, 12, struct.pack("!H", ETHERTYPES[10 - version])),
        "short": good[:150],
        "other length in the IP header": changed(good, length_at, struct.pack("!H", 100)),
        "other length in the UDP header": changed(good, udp_at + 4, struct.pack("!H", 179)),
    }
    with (
        Sink(callee, 20000, 20999, version=version, verify_every=1) as sink,
        topology.relay.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender,
    ):
        sender.bind((callee.gateway.ifname, 0))
        before = sink.counts().passed
        for frame in frames.values():
            sender.send(frame)
        wait_for(lambda: sink.counts().packets >= 7, 1.0, "seven frames to arrive")
        counts = sink.counts()

    assert (counts.packets, counts.verified, counts.wrong_length) == (7, 4, 3)
    assert counts.passed - before >= 2
    assert (counts.bad_ip_checksum, counts.bad_udp_checksum) == (bad_ip, 1 + bad_udp)
