"""Recordings and copies of calls over IPv6 and between the families."""

import pytest

from tests.netns_call.call import DEADLINE_S, KERNEL, STEERED, Call, PhonePort, rtcp
from tests.netns_call.dual_stack.families import EVERYWHERE, addresses, pairs
from tests.recording import tshark
from tests.running import rtp
from tests.waiting import wait_for


@pytest.mark.parametrize("way", [KERNEL, STEERED], ids=lambda way: way.name, indirect=True)
@pairs
def test_a_call_in_one_file(start, topology, way, pair, tmp_path):
    """Each packet has the family that it arrived with, and RTCP, which is shown as it leaves, the other one."""
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    relay = start(*way.options, *EVERYWHERE, "-r", str(recordings), "-P")
    with Call(relay, topology.caller, topology.callee, **addresses(topology, pair)) as call:
        call.establish(way)
        assert relay.ask(f"Rs {call.name} f t") == relay.ask(f"Rs {call.name} t f") == "0"
        call.cross(rtp(2))
        call.cross(rtp(3, payload=bytes(1100)))
        call.cross(rtcp(2), is_rtcp=True)
        assert relay.ask(f"Na {call.name} f t") == "0"
        path = recordings / "c1=f.pcap"
        wait_for(lambda: "recording of both sides: 6 packets" in relay.log, DEADLINE_S, "the end of the recording")
        caller, callee = (at for at in addresses(topology, pair).values())
        ends = [(caller, call.caller.to), (callee, call.callee.to)]
        rtcp_ends = [
            (call.callee.to_rtcp, (callee[0], callee[1] + 1)),
            (call.caller.to_rtcp, (caller[0], caller[1] + 1)),
        ]
        if way.is_kernel:
            call.wait_offloaded()
    seen = tshark.read(path)
    assert [(one.source, one.to) for one in seen] == [*ends, *ends, *rtcp_ends]
    long = rtp(3, payload=bytes(1100))
    assert [one.payload for one in seen] == [rtp(2), rtp(2), long, long, rtcp(2), rtcp(2)]


@pytest.mark.parametrize("way", [KERNEL, STEERED], ids=lambda way: way.name, indirect=True)
@pairs
def test_copies_to_a_host_of_either_family(start, topology, way, pair):
    relay = start(*way.options, *EVERYWHERE)
    phone = topology.callee
    with (
        Call(relay, topology.caller, phone, **addresses(topology, pair)) as call,
        PhonePort(phone, phone.ip, 7000) as by_ipv4,
        PhonePort(phone, phone.ip6, 7000) as by_ipv6,
    ):
        call.establish(way)
        assert relay.ask(f"C {call.name} udp:{phone.ip}:7000 f t") == "0"
        assert relay.ask(f"C {call.name} udp:[{phone.ip6}]:7000 t f") == "0"
        call.caller.send(rtp(2))
        call.callee.send(rtp(102))
        assert [data for data, _ in by_ipv4.expect()] == [rtp(2)]
        assert [data for data, _ in by_ipv6.expect()] == [rtp(102)]
        if way.is_kernel:
            call.wait_offloaded(*call.rtp_ports)
