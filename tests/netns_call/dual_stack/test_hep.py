"""RTCP of calls by IPv4, by IPv6 and between them, to a collector that is not ours, by either family."""

import time

import pytest

from tests.clients.homer import PORT, Homer
from tests.netns_call.call import KERNEL, STEERED, Call
from tests.netns_call.dual_stack.families import EVERYWHERE, addresses, pairs
from tests.netns_call.test_hep import COMPOUND, COMPOUND_BODY, empty_body

UDP, RTCP, INET, INET6 = 17, 5, 2, 10
two_ways = pytest.mark.parametrize("way", [KERNEL, STEERED], ids=lambda way: way.name, indirect=True)


@two_ways
@pairs
def test_kamailio_reads_the_reports(start, topology, way, pair, tmp_path):
    """Its module for Homer; over the family of the caller."""
    host = topology.callee.ip6 if pair[0] else topology.callee.ip
    literal = f"[{host}]" if pair[0] else host
    began_us = time.time_ns() // 1000
    with Homer(topology.callee, tmp_path, host) as homer:
        relay = start(*way.options, *EVERYWHERE, "--hep", f"{literal}:{PORT}", "--hep-id", "4294967295")
        with Call(relay, topology.caller, topology.callee, "call@host", **addresses(topology, pair)) as call:
            call.establish(way)
            call.cross(COMPOUND, is_rtcp=True)
            captured = homer.expect(4)
            ends = [(party.rtcp.address, party.to_rtcp) for party in (call.caller, call.callee)]
    assert [(one.source, one.to) for one in captured] == ends * 2
    assert [one.body for one in captured] == [empty_body(1)] * 2 + [COMPOUND_BODY] * 2
    assert [one.kinds for one in captured] == [(3, INET6 if is_ipv6 else INET, UDP, RTCP) for is_ipv6 in pair * 2]
    assert {(one.capture_id, one.correlation) for one in captured} == {(4294967295, "call@host")}
    assert began_us < captured[0].time_us <= captured[3].time_us <= time.time_ns() // 1000
