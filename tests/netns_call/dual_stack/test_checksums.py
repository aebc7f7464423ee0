"""Checksums that senders leave to their interface, and packets that are put together on the way."""

import pytest
from scapy.all import UDP, Ether

from tests.netns_call.call import ETH_P_IP, ETH_P_IPV6, TC, Tap, kernel_only, sent_frame, verdicts
from tests.netns_call.dual_stack.families import PAIRS, pairs
from tests.running import rtp

_UDP_SEGMENT, _SOL_UDP = 103, 17


@pytest.fixture
def topology(topology):
    """The phones leave checksums to their interfaces."""
    for phone in (topology.caller, topology.callee):
        phone.run(["ethtool", "-K", phone.ifname, "tx", "on"])
        assert "tx-checksumming: on" in phone.run(["ethtool", "-k", phone.ifname]).stdout
    return topology


def assert_right(frame):
    """scapy finds the checksum that the frame has."""
    ip = Ether(frame).payload
    found = ip[UDP].chksum
    del ip[UDP].chksum
    assert type(ip)(bytes(ip))[UDP].chksum == found != 0


@pairs
def test_offloads_left_on_at_the_sender(call, topology, way, pair):
    """Its checksums arrive unfinished at XDP, and marked as such at TC."""
    call.establish(way)
    with Tap(topology.callee, ETH_P_IPV6 if pair[1] else ETH_P_IP) as tap:
        for number, size in enumerate((0, 1, 2, 159, 160, 161, 1300, 1400), 2):
            data = rtp(number, payload=bytes(index % 253 for index in range(size)))
            call.caller.send(data)
            assert call.callee.rtp.expect() == [(data, call.callee.to)]
            assert_right(tap.expect(lambda frame, data=data: frame.endswith(data)))


@pairs
def test_packets_sent_as_one_large_one(call, topology, relay, way, pair):
    """UDP segmentation offload: the veth hands over one frame of many datagrams, which the stack takes apart."""
    call.establish(way)
    phone = topology.caller
    # The kernel forbids it where the far end runs XDP, and then takes them apart itself.
    phone.run(["ethtool", "-K", phone.ifname, "tx-udp-segmentation", "on"], check=False)
    sender = call.caller.rtp._socket
    sender.setsockopt(_SOL_UDP, _UDP_SEGMENT, 172)
    for first in range(10, 90, 20):
        packets = [rtp(number) for number in range(first, first + 20)]
        sender.sendto(b"".join(packets), call.caller.to)
        assert sorted(data for data, _ in call.callee.rtp.expect(20)) == sorted(packets)
    assert relay.stop() == 0
    assert verdicts(relay).get("up_aggregated", 0) == (4 if way is TC else 0)


@kernel_only
@pytest.mark.parametrize("pair", [PAIRS["4-4"]], ids=["4-4"])
def test_frames_for_another_host_are_not_the_calls(call, topology, relay, way, pair):
    """As a promiscuous interface sees them."""
    call.establish(way)
    frame = sent_frame(topology.caller, call.caller.rtp.address, call.caller.to, rtp(2))
    with Tap(topology.caller) as tap:
        tap.send(bytes.fromhex("020000000177") + frame[6:])
        call.cross(rtp(3))
    assert relay.stop() == 0
    assert verdicts(relay)["up_other_mac"] == 1
