"""The generator's packets are right to the byte, and those that a bare redirect passes arrive whole.

Nothing here depends on how fast they go: a machine that is busy takes longer.
"""

import re
import socket
import struct

import pytest
from scapy.all import IP, RTP, UDP, Ether, IPv6, Raw

from tests.bench.frames import FILLER, FIRST_SSRC, StreamSpec, frame_bytes
from tests.bench.generator import AT_ONCE_NS, NEVER_NS, Generator
from tests.bench.redirect import BareRedirect, Drop
from tests.bench.sink import Sink
from tests.netns import Topology
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.alone("its packets need a core for themselves, or full queues refuse most of them"),
]

DEADLINE_S = 60.0

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
    packets.settimeout(DEADLINE_S)
    return packets


def rtp_frames(packets, count, version):
    """The generator's frames among those captured: over IPv6, neighbour discovery is captured, too."""
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
            assert generator.send(31, interval_ns=1_000_000).packets == 31
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
            generator.send(2, interval_ns=1_000_000)
            generator.send(2, interval_ns=1_000_000)
        sequences = [struct.unpack("!H", frame[44:46])[0] for frame in rtp_frames(packets, 4, 4)]
    assert sequences == [0, 1, 2, 3]


def test_sending_for_a_time_ends(topology):
    with (
        Drop(topology, topology.caller, topology.callee),
        Generator(topology.caller, caller_streams(topology, 1)) as generator,
    ):
        generator.start(0.001)
        sent = generator.finish()
        assert generator.total == sent.packets >= 1
        assert 0.0 <= sent.elapsed_s < 0.001


def refused(host, interface):
    """Packets that an interface was to send and its far end had no room for: lost, and counted."""
    statistics = host.run(["ethtool", "-S", interface.ifname]).stdout
    return sum(map(int, re.findall(r"tx_queue_\d+_xdp_xmit_errors: (\d+)", statistics)))


@of_both_families
@pytest.mark.parametrize("interval_ns", [0, 12_500])
def test_bare_redirect_passes_all(topology, interval_ns, version):
    """All but what a full queue refuses, which happens where another core has taken over one of the interfaces."""
    caller, callee = topology.caller, topology.callee

    def total_refused():
        return refused(caller, caller.interface) + refused(topology.relay, callee.gateway)

    with (
        Sink(callee, 20000, 20999, version=version, verify_every=1) as sink,
        BareRedirect(topology, caller, callee),
        Generator(caller, caller_streams(topology, 500, version)) as generator,
    ):
        refused_before = total_refused()
        sent = generator.send(24_000, interval_ns)
        wait_for(
            lambda: sink.counts().packets + total_refused() - refused_before >= 24_000,
            DEADLINE_S,
            "all packets to arrive or to be refused",
        )
        lost = total_refused() - refused_before
        counts, delays = sink.counts(), sink.delays()
        sink.reset()
        assert (sink.counts().packets, sink.delays().max_us) == (0, 0)

    assert sent.packets == 24_000
    assert 0 < counts.packets == counts.verified == 24_000 - lost
    assert 0 < delays.p50_us <= delays.p99_us <= delays.max_us
    assert counts.bytes == counts.packets * frame_bytes(version)
    assert (counts.wrong_length, counts.bad_ip_checksum, counts.bad_udp_checksum) == (0, 0, 0)


def changed(frame, offset, value):
    """The frame with other bytes at `offset`."""
    return frame[:offset] + value + frame[offset + len(value) :]


# The IPv4 header's checksum covers the time to live; over IPv6, that of UDP covers the last byte of an address.
@pytest.mark.parametrize(
    ("version", "in_header", "length_at", "bad_ip", "bad_udp"),
    [(4, 22, 16, 1, 1), (6, 37, 18, 0, 2)],
)
def test_sink_counts_what_is_wrong(topology, version, in_header, length_at, bad_ip, bad_udp):
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
        wait_for(lambda: sink.counts().packets >= 7, DEADLINE_S, "seven frames to arrive")
        counts = sink.counts()

    assert (counts.packets, counts.verified, counts.wrong_length) == (7, 4, 3)
    assert counts.passed - before >= 2
    assert (counts.bad_ip_checksum, counts.bad_udp_checksum) == (bad_ip, 1 + bad_udp)


def test_steady_streams_have_a_turn_and_a_pace_of_their_own(topology):
    streams = caller_streams(topology, 5)
    with capture(topology.relay, topology.caller.gateway.ifname, 4) as packets:
        with Generator(topology.caller, streams, steady=2) as generator:
            generator.send_round(1_000_000)
            sent = generator.send(30, interval_ns=1_000_000, steady_interval_ns=1_000_000)
            assert (generator.total, generator.steady_total) == (35, 2 + sent.steady_packets)
        frames = rtp_frames(packets, 35, 4)
    ports = {stream.src_port: number for number, stream in enumerate(streams)}
    found = [
        (ports[struct.unpack_from("!H", frame, 34)[0]], struct.unpack_from("!H", frame, 44)[0]) for frame in frames
    ]
    assert found[:5] == [(2, 0), (3, 0), (4, 0), (0, 0), (1, 0)]
    steady = [one for one in found if one[0] < 2]
    others = [one for one in found if one[0] >= 2]
    assert 1 <= sent.steady_packets < 30
    assert steady == [(number % 2, number // 2) for number in range(2 + sent.steady_packets)]
    assert others == [(2 + number % 3, number // 3) for number in range(33 - sent.steady_packets)]


def test_steady_streams_beside_others_at_full_speed(topology):
    """They send no more than their pace; less, on a machine that is busy."""
    with (
        Drop(topology, topology.caller, topology.callee),
        Generator(topology.caller, caller_streams(topology, 10), steady=3) as generator,
    ):
        sent = generator.run(0.05, steady_interval_ns=1_000_000)
        alone = generator.send(1000, NEVER_NS, AT_ONCE_NS)
    assert 1 <= sent.steady_packets <= 50
    assert sent.packets > 4 * (sent.steady_packets - 1)
    assert (alone.packets, alone.steady_packets) == (1000, 1000)
