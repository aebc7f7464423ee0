"""Egress of media: all kinds of interfaces, and routes that change during a call. In every tier, media goes on."""

import re
from types import SimpleNamespace

import pytest

from tests.netns_call.call import (
    DEADLINE_S,
    KERNEL,
    STEERED,
    TC,
    Call,
    PhonePort,
    Tap,
    ip,
    kernel_only,
    paused,
    rtcp,
    sent_frame,
)
from tests.netns_call.dual_stack.families import EVERYWHERE
from tests.netns_call.traffic import Stream, Traffic, both_ways, in_the_kernel_again
from tests.optional_links import BOND, VLAN, add_or_skip
from tests.running import rtp
from tests.waiting import wait_for

FAR, FAR6 = "198.51.100.9", "2001:db8:99::9"
"""Where a phone is that is on no link of the relay's."""


def goes_well(call, way):
    """Both ways, RTP and RTCP; where the kernel forwards, without the relay's process."""
    call.establish(way)
    for number in range(2, 8):
        call.cross(rtp(number))
        call.cross(rtcp(number), is_rtcp=True)
    if way.is_kernel:
        with paused(call.relay):
            for number in range(8, 20):
                call.cross(rtp(number))
                call.cross(rtcp(number), is_rtcp=True)


def stays_in_userspace(call, reason):
    """Every stream is relayed, and the log says why the kernel does not."""
    for number in range(1, 6):
        call.cross(rtp(number))
    wait_for(lambda: reason in call.relay.log, DEADLINE_S, f"the reason {reason!r}")


def far_call(relay, topology, host, callee=None, **options):
    """The callee is at an address beyond the link."""
    at = {"callee_at": (host, 5000), "caller_at": (topology.caller.ip6 if ":" in host else topology.caller.ip, 4000)}
    return Call(relay, topology.caller, callee or topology.callee, **at, **options)


# Ways out


def test_by_a_gateway(relay, topology, way):
    ip(topology.callee, f"addr add {FAR}/32 dev lo")
    ip(topology.relay, f"route add {FAR}/32 via 10.0.2.2")
    with far_call(relay, topology, FAR) as call:
        goes_well(call, way)


def test_on_the_link_by_a_host_route(relay, topology, way):
    ip(topology.callee, f"addr add {FAR}/32 dev callee")
    ip(topology.relay, f"route add {FAR}/32 dev to-callee")
    with far_call(relay, topology, FAR) as call:
        goes_well(call, way)


def link_local(host, ifname):
    shown = host.run(["ip", "-6", "-o", "addr", "show", "dev", ifname, "scope", "link"]).stdout
    return re.search(r"inet6 (fe80:[0-9a-f:]+)/", shown)[1]


def test_by_a_link_local_gateway(relay, topology, way):
    ip(topology.callee, f"addr add {FAR6}/128 dev lo")
    gateway = link_local(topology.callee, "callee")
    ip(topology.relay, f"-6 route add {FAR6}/128 via {gateway} dev to-callee")
    with far_call(relay, topology, FAR6) as call:
        goes_well(call, way)


def test_ipv4_by_an_ipv6_gateway(relay, topology, way):
    """RFC 5549: the frame's type is the packet's, its MAC that of the gateway."""
    ip(topology.callee, f"addr add {FAR}/32 dev lo")
    gateway = link_local(topology.callee, "callee")
    ip(topology.relay, f"route add {FAR}/32 via inet6 {gateway} dev to-callee")
    with far_call(relay, topology, FAR) as call:
        goes_well(call, way)


def test_rules_by_source_address(start, topology, way):
    """A rule sends packets from one of our addresses by another route than the main table's."""
    relay = start(*way.options, "-l", "10.0.2.1")
    other = topology.add_host("other")
    for host in (topology.callee, other):
        ip(host, f"addr add {FAR}/32 dev lo")
    ip(topology.relay, f"route add {FAR}/32 via 10.0.3.2")
    ip(topology.relay, "rule add from 10.0.2.1 table 7", f"route add {FAR}/32 via 10.0.2.2 table 7")
    with far_call(relay, topology, FAR, relay_host="10.0.2.1") as call:
        goes_well(call, way)


def test_macvlan(relay, topology, way):
    """Frames for its MAC come by the interface below, whose own program leaves them to the stack, and so to TC."""
    ip(
        topology.relay,
        "link add link to-callee name mv0 type macvlan mode bridge",
        "addr add 10.0.2.7/32 dev mv0",
        "link set mv0 up",
        "route add 10.0.2.2/32 dev mv0 src 10.0.2.7",
    )
    ip(topology.relay, "neigh flush all")
    with Call(relay, topology.caller, topology.callee) as call:
        call.callee.to = "10.0.2.7", call.callee.to[1]
        goes_well(call, way)
    if way.is_kernel:
        assert "mv0: kernel, TC" in relay.log


def test_bridge(start, topology, way):
    """The address is on the bridge, the phone behind one of its ports."""
    ip(
        topology.relay,
        "addr flush dev to-callee",
        "link add br0 type bridge",
        "link set to-callee master br0",
        "addr add 10.0.2.1/24 dev br0",
        "link set br0 up",
    )
    relay = start(*way.options, *EVERYWHERE)
    with Call(relay, topology.caller, topology.callee) as call:
        goes_well(call, way)
    if way.is_kernel:
        assert "br0: kernel, TC" in relay.log


def test_way_out_that_takes_no_redirected_frames(start, topology, way):
    """A veth whose far end has neither XDP nor GRO."""
    topology.callee.run(["ethtool", "-K", "callee", "gro", "off"])
    relay = start(*way.options, *EVERYWHERE)
    with Call(relay, topology.caller, topology.callee) as call:
        goes_well(call, way)


@kernel_only
def test_tunnel_stays_in_userspace(relay, topology, way):
    """A way out without Ethernet frames."""
    ip(topology.callee, f"addr add {FAR}/32 dev lo")
    ip(topology.relay, "tuntap add tun0 mode tun", "link set tun0 up", f"route add {FAR}/32 dev tun0")
    with far_call(relay, topology, FAR) as call:
        call.caller.send(rtp(1))
        reason = "stays in userspace: tun0 is not an Ethernet interface"
        wait_for(lambda: reason in relay.log, DEADLINE_S, "the reason")


# Bonds and VLANs, where the kernel has such devices


@pytest.mark.vm
def test_bond(start, topology, way):
    """The address is on the bond. XDP runs on its ports, and the bond chooses the one to send by."""
    add_or_skip(topology.relay, BOND, "bond0 type bond mode active-backup miimon 100")
    ip(
        topology.relay,
        "addr flush dev to-callee",
        "link set to-callee down",
        "link set to-callee master bond0",
        "addr add 10.0.2.1/24 dev bond0",
        "link set bond0 up",
    )
    relay = start(*way.options, *EVERYWHERE)
    with Call(relay, topology.caller, topology.callee) as call:
        goes_well(call, way)
    if way.is_kernel:
        assert "bond0: kernel, " in relay.log


@pytest.fixture
def trunk(topology):
    """The callee is in two VLANs of the link, tagged at both ends: once in the one, twice in the other."""
    for host, link, number in ((topology.callee, "callee", 2), (topology.relay, "to-callee", 1)):
        for name, below, tag in (("v0", link, "id 5"), ("q0", link, "proto 802.1ad id 7"), ("q1", "q0", "id 5")):
            add_or_skip(host, VLAN, f"link {below} name {name} type vlan {tag}")
            ip(host, f"link set {name} up")
        ip(host, f"addr add 10.5.0.{number}/24 dev v0", f"addr add 10.6.0.{number}/24 dev q1")


@pytest.mark.vm
@pytest.mark.parametrize("is_stripped", [False, True], ids=["in the frame", "taken off"])
def test_vlan(trunk, start, topology, way, is_stripped):
    if not is_stripped:
        for host, name in ((topology.callee, "callee"), (topology.relay, "to-callee")):
            host.run(["ethtool", "-K", name, "txvlan", "off", "tx-vlan-stag-hw-insert", "off"])
    relay = start(*way.options, *EVERYWHERE)
    for number, network in enumerate(("10.5.0", "10.6.0")):
        at = {"caller_at": (topology.caller.ip, 4000 + number), "callee_at": (f"{network}.2", 5000)}
        with Call(relay, topology.caller, topology.callee, network, **at) as call:
            call.callee.to = f"{network}.1", call.callee.to[1]
            goes_well(call, way)


@kernel_only
def test_tags_of_no_vlan_of_ours_go_up(relay, topology, way):
    """They are not the call's, even if all else is."""
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        frame = sent_frame(topology.caller, call.caller.rtp.address, call.caller.to, rtp(2))
        with Tap(topology.caller) as tap:
            tap.send(frame[:12] + b"\x81\x00\x00\x05" + frame[12:])
            call.cross(rtp(3))
        assert relay.stop() == 0
    assert "up_vlan 1" in relay.log


# Hairpin


class OnRelay:
    """A phone on the relay's own host."""

    def __init__(self, topology, host, relay_host):
        self.ip = host
        self.gateway = SimpleNamespace(ip=relay_host)
        self.socket = topology.relay.socket


LOOPBACK_ALLOWED = ("--media-allow", "127.0.0.0/8")
"""A relay on all addresses sends to loopback only if told."""


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.2.1"])
def test_phone_on_the_relays_host(start, topology, way, host):
    relay = start(*way.options, *EVERYWHERE, *LOOPBACK_ALLOWED)
    with Call(relay, topology.caller, OnRelay(topology, host, host)) as call:
        if way.is_kernel:
            stays_in_userspace(call, f"stays in userspace: {host} is an address of this host")
        else:
            goes_well(call, way)


def test_both_phones_on_the_relays_host(start, topology, way):
    relay = start(*way.options, *EVERYWHERE, *LOOPBACK_ALLOWED)
    one, other = (OnRelay(topology, "127.0.0.1", "127.0.0.1") for _ in range(2))
    with Call(relay, one, other) as call:
        for number in range(1, 6):
            call.cross(rtp(number))


@pytest.mark.parametrize("is_ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_both_phones_behind_one_nat(relay, topology, way, is_ipv6):
    """One address, two ports."""
    host = topology.caller.ip6 if is_ipv6 else topology.caller.ip
    at = {"caller_at": (host, 4000), "callee_at": (host, 5000)}
    with Call(relay, topology.caller, topology.caller, **at) as call:
        goes_well(call, way)


def test_nothing_is_sent_back_to_its_sender(relay, topology, way):
    """Both parties signal the same address and port."""
    with Call(relay, topology.caller, topology.callee, callee_says=(topology.caller.ip, 4000)) as call:
        for number in range(1, 20):
            call.caller.send(rtp(number))
        wait_for(lambda: call.quote()["ndropped"] == 19, DEADLINE_S, "all to be dropped")
        assert call.caller.rtp.take() == []
        call.callee.send(rtp(1))
        call.caller.rtp.expect()
        for number in range(30, 34):
            call.cross(rtp(number))


# Changes under a call


@pytest.mark.parametrize("is_ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_route_to_another_interface(relay, topology, way, is_ipv6):
    """Media goes the new way, and after some that were under way nothing goes the old one."""
    far, family = (f"{FAR6}/128", "-6 ") if is_ipv6 else (f"{FAR}/32", "")
    routers = [topology.add_host("one"), topology.add_host("two")]
    for router in routers:
        ip(router, f"addr add {far} dev lo")
    gateways = [router.ip6 if is_ipv6 else router.ip for router in routers]
    ip(topology.relay, f"{family}route add {far} via {gateways[0]}")
    with far_call(relay, topology, FAR6 if is_ipv6 else FAR, callee=routers[0]) as call:
        call.callee.send(rtp(1))
        call.caller.rtp.expect()
        with PhonePort(routers[1], *call.callee.rtp.address) as elsewhere:
            stream = Stream(call.caller.rtp, call.caller.to, call.callee.rtp, elsewhere)
            with Traffic(stream) as traffic:
                traffic.resumed(100)
                if way.is_kernel:
                    call.wait_offloaded(call.caller.to[1])
                ip(topology.relay, f"{family}route replace {far} via {gateways[1]}")
                wait_for(lambda: stream.arrived[elsewhere], DEADLINE_S, "media to go the new way")
                if way.is_kernel:
                    # Userspace may have relayed these packets, before the row was changed.
                    follows = f"via {gateways[1]} dev"
                    wait_for(lambda: follows in relay.log, DEADLINE_S, "the kernel tier to follow")
                    call.wait_offloaded(call.caller.to[1])
                traffic.resumed(50)
                before = len(stream.arrived[call.callee.rtp])
                traffic.resumed(400)
                assert len(stream.arrived[call.callee.rtp]) == before
                traffic.finish()
            assert not stream.doubled


@pytest.mark.parametrize("is_ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_route_by_another_gateway(relay, topology, way, is_ipv6):
    """On the same link; its frames have another MAC."""
    far, family = (f"{FAR6}/128", "-6 ") if is_ipv6 else (f"{FAR}/32", "")
    second = "fd00:0:2::22" if is_ipv6 else "10.0.2.22"
    ip(topology.callee, f"addr add {far} dev lo")
    ip(topology.callee, "link add link callee name second type macvlan mode bridge", "link set second up")
    ip(topology.callee, f"addr add {second}/{64 if is_ipv6 else 24} dev second{' nodad' if is_ipv6 else ''}")
    for name in ("callee", "second"):
        topology.callee.run(
            ["sysctl", "-qw", f"net.ipv4.conf.{name}.arp_ignore=1", f"net.ipv4.conf.{name}.rp_filter=0"]
        )
    shown = topology.callee.run(["ip", "-o", "link", "show", "second"]).stdout
    new = bytes.fromhex(re.search(r"link/ether (\S+)", shown)[1].replace(":", ""))
    ip(topology.relay, f"{family}route add {far} via {topology.callee.ip6 if is_ipv6 else topology.callee.ip}")
    with far_call(relay, topology, FAR6 if is_ipv6 else FAR) as call:
        call.callee.send(rtp(1))
        call.caller.rtp.expect()
        stream = Stream(call.caller.rtp, call.caller.to, call.callee.rtp)
        with Traffic(stream) as traffic, Tap(topology.callee, 0x86DD if is_ipv6 else 0x0800) as tap:
            traffic.resumed(100)
            if way.is_kernel:
                call.wait_offloaded(call.caller.to[1])
            ip(topology.relay, f"{family}route replace {far} via {second}")
            tap.expect(lambda frame: frame[:6] == new and len(frame) > 150)
            traffic.resumed()
            traffic.finish()
        assert not stream.doubled


@pytest.mark.parametrize("way", [KERNEL, TC, STEERED], ids=lambda way: way.name, indirect=True)
def test_address_goes_and_comes(relay, topology, way):
    """The address of ours that the callee knows: without it nothing is forwarded, with it media goes on.

    Bound ports under a wildcard send from whatever address the route says.
    """
    ip(topology.relay, "addr add 10.0.2.40/24 dev to-callee")
    with Call(relay, topology.caller, topology.callee) as call:
        call.callee.to = "10.0.2.40", call.callee.to[1]
        call.callee.send(rtp(1))
        call.callee.send_rtcp(rtcp(1))
        call.caller.rtp.expect()
        call.caller.rtcp.expect()
        call.establish(way)
        streams = both_ways(call)
        with Traffic(*streams) as traffic:
            traffic.more(100)
            ip(topology.relay, "addr del 10.0.2.40/24 dev to-callee")
            if way.is_kernel:
                wait_for(
                    lambda: "10.0.2.40 is not an address of this host now" in relay.log,
                    DEADLINE_S,
                    "the relay to notice",
                )
            traffic.more(200)
            ip(topology.relay, "addr add 10.0.2.40/24 dev to-callee")
            in_the_kernel_again(call, way, traffic)
            traffic.stop_sending()
        for stream in streams:
            assert not stream.doubled


@pytest.mark.parametrize("is_ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_interface_is_deleted_and_created(relay, topology, way, is_ipv6):
    caller, callee = topology.caller, topology.callee
    at = {"caller_at": (caller.ip6, 4000), "callee_at": (callee.ip6, 5000)} if is_ipv6 else {}
    with Call(relay, caller, callee, **at) as call:
        call.establish(way)
        ip(topology.relay, "link del to-callee")
        for number in range(20):
            call.caller.send(rtp(100 + number))
        topology.connect(callee, 2)
        streams = both_ways(call)
        with Traffic(*streams) as traffic:
            in_the_kernel_again(call, way, traffic)
            traffic.stop_sending()
        for stream in streams:
            assert not stream.doubled


def test_ipv6_neighbour_whose_mac_changes(relay, topology, way):
    caller, callee = topology.caller, topology.callee
    at = {"caller_at": (caller.ip6, 4000), "callee_at": (callee.ip6, 5000)}
    new = bytes.fromhex("020000000299")
    with Call(relay, caller, callee, **at) as call:
        call.establish(way)
        streams = both_ways(call)
        with Traffic(*streams) as traffic, Tap(callee, 0x86DD) as tap:
            traffic.more(100)
            ip(callee, f"link set callee address {new.hex(':')}")
            in_the_kernel_again(call, way, traffic)
            tap.expect(lambda frame: frame[:6] == new and frame[20] == 17)
            traffic.stop_sending()
        for stream in streams:
            assert not stream.doubled
