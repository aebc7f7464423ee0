"""Calls change, come and go under traffic: nothing is lost, doubled, or sent to the wrong place."""

import pytest

from tests.netns_call.call import Call, PhonePort, paused
from tests.netns_call.traffic import Stream, Traffic, both_ways
from tests.running import rtp


@pytest.mark.parametrize("command", ["L", "U"])
def test_a_re_invite_moves_the_destination_at_once(call, topology, way, command):
    """Packets sent after the reply arrive at the new address, earlier ones at either of the two."""
    call.establish(way)
    sender, receiver = (call.caller, call.callee) if command == "L" else (call.callee, call.caller)
    move = call.lookup if command == "L" else call.update
    host, port = receiver.rtp.address
    phone = topology.callee if command == "L" else topology.caller
    with PhonePort(phone, host, port + 10) as moved:
        stream = Stream(sender.rtp, sender.to, receiver.rtp, moved)
        with Traffic(stream) as traffic:
            traffic.more(50)
            for number in range(20):
                left = moved if number % 2 else receiver.rtp
                move(host, port + (0 if number % 2 else 10))
                # The next packet may be under way already and not be counted as sent yet.
                after_reply = stream.sent + 1
                traffic.resumed(50)
                assert all(arrived < after_reply for arrived in stream.arrived[left])
            traffic.finish()
        assert not stream.doubled
        assert stream.arrived[receiver.rtp]
        assert stream.arrived[moved]
        if way.is_kernel:
            # The last move was back.
            call.wait_offloaded(*call.rtp_ports)
            with paused(call.relay):
                sender.send(rtp(1))
                assert receiver.rtp.expect() == [(rtp(1), receiver.to)]


def test_re_invites_of_both_parties_under_traffic_both_ways(call, topology, way):
    """Asymmetric parties: they send from where they always did, and receive where they last said."""
    with PhonePort(topology.caller, "10.0.1.2", 4010) as caller_moved:
        relay = call.relay
        with PhonePort(topology.callee, "10.0.2.2", 5010) as callee_moved:
            relay.port(f"Ua {call.name} 10.0.1.2 4000 f t")
            relay.port(f"La {call.name} 10.0.2.2 5000 f t")
            call.cross(rtp(1))
            streams = (
                Stream(call.caller.rtp, call.caller.to, call.callee.rtp, callee_moved),
                Stream(call.callee.rtp, call.callee.to, call.caller.rtp, caller_moved),
            )
            with Traffic(*streams) as traffic:
                for number in range(20):
                    traffic.more(50)
                    away = 0 if number % 2 else 10
                    relay.port(f"Ua {call.name} 10.0.1.2 {4000 + away} f t")
                    relay.port(f"La {call.name} 10.0.2.2 {5000 + away} f t")
                traffic.more(50)
                traffic.finish()
            for stream in streams:
                assert not stream.doubled
                assert all(len(numbers) > 100 for numbers in stream.arrived.values())


def test_new_calls_do_not_disturb_one_under_way(call, topology, way):
    call.establish(way)
    streams = both_ways(call)
    with Traffic(*streams) as traffic:
        for number in range(30):
            with Call(
                *(call.relay, topology.caller, topology.callee, f"{call.name}-{number}"),
                caller_at=("10.0.1.2", 4100),
                callee_at=("10.0.2.2", 5100),
            ) as beside:
                beside.cross(rtp(1))
                assert call.relay.ask(f"D {beside.tags}") == "0"
        traffic.finish()
    for stream in streams:
        assert not stream.doubled
