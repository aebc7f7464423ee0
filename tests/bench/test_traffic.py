"""What the generator sends is right to the byte, and what a bare redirect passes arrives whole."""

import socket
import struct

import pytest
from scapy.all import IP, RTP, UDP, Ether, Raw

from tests.bench.traffic import FILLER, FIRST_SSRC, FRAME_BYTES, BareRedirect, Generator, Sink, StreamSpec
from tests.netns import Topology
from tests.waiting import wait_for

pytestmark = [pytest.mark.root, pytest.mark.kernel]

ETH_P_IP = 0x0800


@pytest.fixture(scope="module")
def topology():
    with Topology() as topology:
        yield topology


def caller_streams(topology, count):
    relay = topology.caller.gateway.ip
    return [StreamSpec(topology.caller.ip, 10000 + 2 * n, relay, 20000 + 2 * n) for n in range(count)]


def capture(host, ifname):
    """A socket that gets the whole frames of IPv4 packets coming in by one interface."""
    packets = host.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
    packets.bind((ifname, ETH_P_IP))
    packets.settimeout(2.0)
    return packets


def expected_frame(phone, number, spec, sequence, stamp):
    rtp = RTP(payload_type=8, sequence=sequence, timestamp=sequence * 160, sourcesync=FIRST_SSRC + number)
    payload = bytes([FILLER] * 2) + stamp + bytes([FILLER] * 150)
    ip = IP(src=spec.src_ip, dst=spec.dst_ip, id=0, flags="DF", ttl=64)
    ethernet = Ether(src=phone.mac, dst=phone.gateway.mac)
    return bytes(ethernet / ip / UDP(sport=spec.src_port, dport=spec.dst_port) / rtp / Raw(payload))


def test_frames_are_right(topology):
    streams = caller_streams(topology, 3)
    with capture(topology.relay, topology.caller.gateway.ifname) as packets:
        with Generator(topology.caller, streams) as generator:
            assert generator.run(0.0305, interval_ns=1_000_000).packets == 31
        frames = [packets.recv(2048) for _ in range(31)]

    stamps = [frame[56:64] for frame in frames]
    assert frames == [
        expected_frame(topology.caller, number % 3, streams[number % 3], number // 3, stamps[number])
        for number in range(31)
    ]
    assert {len(frame) for frame in frames} == {FRAME_BYTES}
    times = [struct.unpack("=Q", stamp)[0] for stamp in stamps]
    assert times == sorted(set(times))


def test_streams_go_on_in_the_next_run(topology):
    streams = caller_streams(topology, 1)
    with capture(topology.relay, topology.caller.gateway.ifname) as packets:
        with Generator(topology.caller, streams) as generator:
            generator.run(0.0015, interval_ns=1_000_000)
            generator.run(0.0015, interval_ns=1_000_000)
        sequences = [struct.unpack("!H", packets.recv(2048)[44:46])[0] for _ in range(4)]
    assert sequences == [0, 1, 2, 3]


@pytest.mark.parametrize("interval_ns", [0, 12_500])
def test_bare_redirect_loses_nothing(topology, interval_ns):
    caller, callee = topology.caller, topology.callee
    with (
        Sink(callee, 20000, 20999, verify_every=1) as sink,
        BareRedirect(topology, caller, callee),
        Generator(caller, caller_streams(topology, 500)) as generator,
    ):
        sent = generator.run(0.3, interval_ns)
        wait_for(lambda: sink.counts().packets >= sent.packets, 1.0, "all packets to arrive")
        counts, delays = sink.counts(), sink.delays()
        sink.reset()
        assert (sink.counts().packets, sink.delays().max_us) == (0, 0)

    assert 0 < delays.p50_us <= delays.p99_us <= delays.max_us
    assert counts.packets == counts.verified == sent.packets
    assert counts.bytes == sent.packets * FRAME_BYTES
    assert (counts.wrong_length, counts.bad_ip_checksum, counts.bad_udp_checksum) == (0, 0, 0)
    assert sent.packets > 20_000
    if interval_ns:
        assert sent.packets == 24_000


def test_sink_tells_what_is_not_right(topology):
    callee = topology.callee
    good = bytearray(expected_frame(callee, 0, StreamSpec("10.0.1.2", 10000, callee.ip, 20000), 0, bytes(8)))
    bad_udp, bad_ip = bytearray(good), bytearray(good)
    bad_udp[200] ^= 1
    bad_ip[22] -= 1
    other_port = bytearray(good)
    other_port[36:38] = struct.pack("!H", 30000)
    with (
        Sink(callee, 20000, 20999, verify_every=1) as sink,
        topology.relay.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender,
    ):
        sender.bind((callee.gateway.ifname, 0))
        for frame in (good, bad_udp, bad_ip, other_port, good[:150]):
            sender.send(frame)
        wait_for(lambda: sink.counts().packets + sink.counts().passed >= 5, 1.0, "five frames to arrive")
        counts = sink.counts()

    assert (counts.packets, counts.verified, counts.passed, counts.wrong_length) == (4, 3, 1, 1)
    assert (counts.bad_ip_checksum, counts.bad_udp_checksum) == (1, 1)
