"""A teed call stays in the kernel, and a process without privileges reads each of its packets from the ring."""

import os
import time

import pytest
from scapy.layers.inet import IP, UDP

from rtpproxy.config import OffloadMode
from tests.netns_call.call import KERNEL, TC, ip
from tests.netns_call.inside import inside_relay
from tests.netns_call.ring_reader import RingReader
from tests.running import rtp
from tests.waiting import DEADLINE_S, wait_for

MODES = {KERNEL: OffloadMode.AUTO, TC: OffloadMode.TC}
kernel_ways = pytest.mark.parametrize("way", [KERNEL, TC], ids=[KERNEL.name, TC.name], indirect=True)


@pytest.fixture
def relay(topology, way, tmp_path):
    """A relay whose ring has room for 1 MB."""
    with inside_relay(topology.relay, tmp_path, MODES[way]) as relay:
        yield relay


@pytest.fixture
def reader(relay):
    opened = relay.open_ring()
    try:
        reader = RingReader(opened)
    finally:
        os.close(opened.fd)
    with reader:
        yield reader


def send(relay, sender, receiver, packets):
    """Packets that the kernel forwards, all of them."""
    before = relay.forwarded()
    for packet in packets:
        sender.send(packet)
    assert [data for data, _ in receiver.rtp.expect(len(packets))] == packets
    assert relay.forwarded() == before + len(packets)


def payloads(records):
    return [bytes(IP(packet)[UDP].payload) for _, _, packet in records]


@kernel_ways
def test_call_that_is_recorded_from_the_middle(topology, relay, call, way, reader):
    call.establish(way)
    caller, callee = call.caller, call.callee
    send(relay, caller, callee, [rtp(number) for number in range(2, 6)])
    assert reader.read() == []

    port = caller.to[1]
    relay.tee(port, 77)
    sent = [rtp(number, payload=bytes((number,)) * number) for number in range(6, 60)]
    before = time.monotonic_ns()
    send(relay, caller, callee, sent)
    after = time.monotonic_ns()
    send(relay, callee, caller, [rtp(number) for number in range(2, 6)])
    records = reader.read()
    assert payloads(records) == sent
    times = [at for at, _, _ in records]
    assert before < times[0]
    assert times[-1] < after
    assert times == sorted(set(times))
    assert {tee for _, tee, _ in records} == {77}
    for _, _, packet in records:
        found = IP(packet)
        assert (found.src, found.dst, found.len) == (topology.caller.ip, caller.to[0], len(packet))
        assert (found[UDP].sport, found[UDP].dport) == (4000, port)

    # Neither a plan that is made again, nor another next hop takes the tee away.
    moved = topology.callee
    moved.run(["ip", "link", "set", moved.ifname, "address", "02:00:00:00:99:01"])
    ip(topology.relay, f"neigh replace {moved.ip} lladdr 02:00:00:00:99:01 dev {moved.gateway.ifname} nud reachable")
    relay.replan(port)

    def is_forwarded_again():
        before = relay.forwarded()
        caller.send(rtp(60))
        callee.rtp.expect()
        return relay.forwarded() == before + 1

    wait_for(is_forwarded_again, DEADLINE_S, "the new way")
    reader.read()
    send(relay, caller, callee, [rtp(number) for number in range(61, 70)])
    assert payloads(reader.read()) == [rtp(number) for number in range(61, 70)]

    relay.tee(port, 0)
    send(relay, caller, callee, [rtp(number) for number in range(70, 80)])
    assert reader.read() == []


@kernel_ways
def test_what_finds_no_room_is_of_its_stream(relay, call, way, reader):
    """The ring of 1 MB has room for 3,971 of these packets; the call notices nothing."""
    call.establish(way)
    caller, callee = call.caller, call.callee
    relay.tee(caller.to[1], 5)
    relay.tee(callee.to[1], 6)
    total = 4200
    for first in range(2, total + 2, 100):
        send(relay, caller, callee, [rtp(number) for number in range(first, first + 100)])
    relay.ask(f"Q {call.tags}")
    room = (1 << 20) // 264
    assert (relay.missed(caller.to[1]), relay.missed(callee.to[1])) == (total - room, 0)
    assert len(reader.read()) == room
    send(relay, caller, callee, [rtp(number) for number in range(total + 2, total + 12)])
    assert len(reader.read()) == 10


@pytest.mark.parametrize("way", [TC], ids=[TC.name], indirect=True)
def test_jumbo_frames(topology, relay, call, way, reader):
    """XDP gets frames of one page at most; TC any, and the longest ones have no record but a count."""
    for phone in (topology.caller, topology.callee):
        phone.run(["ip", "link", "set", phone.ifname, "mtu", "9500"])
        ip(topology.relay, f"link set {phone.gateway.ifname} mtu 9500")
    call.establish(way)
    caller, callee = call.caller, call.callee
    relay.tee(caller.to[1], 5)
    fits = [rtp(number, payload=bytes((number,)) * (size - 12)) for number, size in enumerate((8972, 4033, 9152), 2)]

    def is_forwarded():
        before = relay.forwarded()
        caller.send(rtp(1, payload=bytes(9140)))
        callee.rtp.expect()
        return relay.forwarded() == before + 1

    wait_for(is_forwarded, DEADLINE_S, "the longer MTU to be known")
    reader.read()
    send(relay, caller, callee, fits)
    assert payloads(reader.read()) == fits
    relay.ask(f"Q {call.tags}")
    assert relay.missed(caller.to[1]) == 0
    send(relay, caller, callee, [rtp(9, payload=bytes(9153 - 12))])
    assert reader.read() == []
    relay.ask(f"Q {call.tags}")
    assert relay.missed(caller.to[1]) == 1
