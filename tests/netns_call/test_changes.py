"""The network changes under traffic: nothing is lost where the network stays able, and nothing doubled."""

import re

import pytest

from tests.netns_call.call import DEADLINE_S, Tap, ip, kernel_only, verdicts
from tests.netns_call.traffic import Traffic, both_ways, in_the_kernel_again
from tests.path_mtu import require_mtu
from tests.running import rtp
from tests.waiting import wait_for


def test_nothing_is_lost_while_the_kernel_takes_over(call, way):
    """From the very first packet on, with neighbours still unknown."""
    streams = both_ways(call)
    with Traffic(*streams) as traffic:
        in_the_kernel_again(call, way, traffic)
        traffic.finish()
    for stream in streams:
        assert not stream.doubled
    total = sum(stream.sent for stream in streams)
    assert call.quote()["nrelayed"] == total
    totals = call.relay.totals()
    assert totals["packets received"] == totals["packets transmitted"] == total


def test_nothing_is_lost_when_neighbours_are_forgotten(call, topology, way):
    call.establish(way)
    streams = both_ways(call)
    with Traffic(*streams) as traffic:
        for _ in range(5):
            traffic.more(100)
            ip(topology.relay, "neigh del 10.0.2.2 dev to-callee")
            traffic.more(100)
            ip(topology.relay, "neigh del 10.0.1.2 dev to-caller")
        in_the_kernel_again(call, way, traffic)
        traffic.finish()
    for stream in streams:
        assert not stream.doubled


def test_nothing_is_lost_while_neighbours_are_confirmed(call, topology, way):
    """Entries that go stale and are probed while frames that the kernel forwards are no news to them."""
    for name in ("to-caller", "to-callee"):
        topology.relay.run(["sysctl", "-qw", f"net.ipv4.neigh.{name}.base_reachable_time_ms=100"])
        topology.relay.run(["sysctl", "-qw", f"net.ipv4.neigh.{name}.delay_first_probe_time=1"])
    call.establish(way)
    streams = both_ways(call)
    with Traffic(*streams) as traffic:
        traffic.more(3000)
        in_the_kernel_again(call, way, traffic)
        traffic.finish()
    for stream in streams:
        assert not stream.doubled


def test_nothing_is_lost_when_another_link_goes_down(call, topology, way):
    topology.add_host("bystander")
    call.establish(way)
    streams = both_ways(call)
    with Traffic(*streams) as traffic:
        traffic.more(100)
        ip(topology.relay, "link set to-bystander down")
        traffic.more(200)
        ip(topology.relay, "link set to-bystander up")
        traffic.more(200)
        ip(topology.relay, "link del to-bystander")
        in_the_kernel_again(call, way, traffic)
        traffic.finish()
    for stream in streams:
        assert not stream.doubled


def test_nothing_is_lost_when_addresses_and_routes_change(call, topology, way):
    """Events that make the relay ask for every route again, with the same answer."""
    call.establish(way)
    streams = both_ways(call)
    with Traffic(*streams) as traffic:
        for number in range(5):
            ip(topology.relay, f"addr add 10.9.{number}.1/24 dev to-callee")
            traffic.more(50)
            ip(topology.relay, f"route add 10.10.{number}.0/24 via 10.0.1.2")
            traffic.more(50)
        in_the_kernel_again(call, way, traffic)
        traffic.finish()
    for stream in streams:
        assert not stream.doubled


@pytest.mark.parametrize("name", ["caller", "callee"])
def test_media_resumes_after_a_link_of_the_relay_was_down(call, topology, way, name):
    call.establish(way)
    streams = both_ways(call)
    with Traffic(*streams) as traffic:
        traffic.more(100)
        ip(topology.relay, f"link set to-{name} down")
        if way.is_kernel:
            wait_for(
                lambda: "leaves the kernel" in call.relay.log or "is not usable" in call.relay.log,
                DEADLINE_S,
                "the relay to notice",
            )
        traffic.more(200)
        ip(topology.relay, f"link set to-{name} up")
        in_the_kernel_again(call, way, traffic)
        traffic.stop_sending()
    for stream in streams:
        assert not stream.doubled


def test_media_resumes_after_the_link_of_a_phone_was_down(call, topology, way):
    call.establish(way)
    streams = both_ways(call)
    with Traffic(*streams) as traffic:
        traffic.more(100)
        ip(topology.callee, "link set callee down")
        wait_for(
            lambda: "NO-CARRIER" in topology.relay.run(["ip", "link", "show", "to-callee"]).stdout,
            DEADLINE_S,
            "the carrier to go",
        )
        ip(topology.callee, "link set callee up")
        ip(topology.callee, "route add default via 10.0.2.1")
        in_the_kernel_again(call, way, traffic)
        traffic.stop_sending()
    for stream in streams:
        assert not stream.doubled


def udp_to(address):
    """Make a test for frames that carry UDP to that address and port."""
    host, port = address
    end = bytes(map(int, host.split("."))), port.to_bytes(2)
    return lambda frame: frame[23] == 17 and (frame[30:34], frame[36:38]) == end


def test_media_follows_a_phone_whose_mac_changes(call, topology, way):
    call.establish(way)
    streams = both_ways(call)
    new = "02:00:00:00:02:99"
    with Traffic(*streams) as traffic, Tap(topology.callee) as tap:
        traffic.more(100)
        ip(topology.callee, f"link set callee address {new}")
        in_the_kernel_again(call, way, traffic)
        is_media = udp_to(call.callee.rtp.address)
        frame = tap.expect(lambda frame: is_media(frame) and frame[:6] != bytes.fromhex("020000000202"))
        assert frame[:6] == bytes.fromhex(new.replace(":", ""))
        traffic.stop_sending()
    for stream in streams:
        assert not stream.doubled


def test_media_leaves_with_the_new_mac_of_the_relay(call, topology, way):
    call.establish(way)
    streams = both_ways(call)
    new = bytes.fromhex("020000000299")
    with Traffic(*streams) as traffic, Tap(topology.callee) as tap:
        traffic.more(100)
        ip(topology.relay, f"link set to-callee address {new.hex(':')}")
        in_the_kernel_again(call, way, traffic)
        is_media = udp_to(call.callee.rtp.address)
        tap.expect(lambda frame: is_media(frame) and frame[6:12] == new)
        traffic.stop_sending()
    for stream in streams:
        assert not stream.doubled


def test_a_smaller_mtu_of_the_way_out_makes_fragments(call, topology, way):
    call.establish(way)
    ip(topology.relay, "link set to-callee mtu 1000")
    sent, arrived = [], []

    def send():
        sent.append(len(sent).to_bytes(4) + bytes(index % 251 for index in range(1396)))
        call.caller.send(sent[-1])

    def has_arrived(*wanted):
        """Tell whether these payloads have arrived; without any named, whether one has."""
        arrived.extend(call.callee.rtp.take())
        return set(wanted) <= {data for data, _ in arrived} if wanted else bool(arrived)

    # Frames that the kernel tier forwards before it hears of it are lost, as they are in any router.
    wait_for(lambda: send() or has_arrived(), DEADLINE_S, "large payloads to arrive")
    send()
    wait_for(lambda: has_arrived(sent[-1]), DEADLINE_S, "the last of them")
    assert [source for _, source in arrived] == [call.callee.to] * len(arrived)
    assert [data for data, _ in arrived] == sent[-len(arrived) :]
    call.cross(rtp(2))


@kernel_only
def test_a_path_that_takes_shorter_packets_only(call, topology, way):
    """Longer packets go to userspace, where the socket fragments them; no netlink event reports such a path."""
    call.establish(way)
    long = rtp(2, payload=bytes(1300))
    call.cross(long)
    left = call.quote()["ttl"]
    wait_for(lambda: call.quote()["ttl"] < left, DEADLINE_S, "events of the start to be dealt with")
    require_mtu(topology.callee, 1280, call.callee.to, call.callee.rtp.address)
    seen = len(call.relay.log)
    wait_for(lambda: re.search("stream .*; changed in the kernel", call.relay.log[seen:]), DEADLINE_S, "the MTU")
    call.cross(rtp(3, payload=bytes(1300)))
    call.cross(rtp(4))
    assert call.relay.stop() == 0
    assert verdicts(call.relay)["up_too_long"] == 1
