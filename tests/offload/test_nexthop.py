"""Routes that come, change and go in a namespace; rows of the next hop table follow."""

from dataclasses import replace

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.config import OffloadMode
from rtpproxy.offload import nexthop
from rtpproxy.offload.contradictions import Contradictions
from rtpproxy.offload.entry import NO_INGRESS, ForwardingEntry, Ingress, NextHop, Tier, XdpWay
from rtpproxy.offload.forwarder import Forwarder
from rtpproxy.offload.nexthop import NoRoute, Route
from tests.conftest import TC_BEHIND_NAME, TC_NAME, XDP_NAME
from tests.offload.fake_kernel import FakeRows
from tests.offload.relay_network import CAPACITY, MAC, OTHER_MAC, RelayNetwork, known_neighbour, no_ingress, to_callee
from tests.offload.test_forwarder import FakeOwner
from tests.path_mtu import require_mtu
from tests.waiting import DEADLINE_S, wait_for

pytestmark = [pytest.mark.root, pytest.mark.kernel]

BEHIND = "198.51.100.9"
"""A peer that is not on a link of ours."""


# Ingress interfaces


def test_packets_are_expected_by_the_interface_of_the_route(network, topology, callee_link):
    host = known_neighbour(network)
    assert network.next_hops.acquire(host, "").ingress == Ingress(callee_link.ifindex, callee_link.mac)
    network.host.run(["ip", "link", "set", "to-callee", "address", OTHER_MAC])
    assert network.reroute() == [(host, "")]
    assert network.next_hops.current(host, "").ingress == Ingress(callee_link.ifindex, OTHER_MAC)
    known_neighbour(network, "10.0.1.50", MAC, "to-caller")
    network.ip(f"route add {host}/32 via 10.0.1.50")
    assert network.reroute() == [(host, "")]
    link = topology.caller.gateway
    assert network.next_hops.current(host, "").ingress == Ingress(link.ifindex, link.mac)


def test_packets_are_expected_where_there_is_no_way_for_ours(network):
    """A peer at the end of a tunnel; and one that cannot be reached at all."""
    network.ip("tuntap add tun0 mode tun", "link set tun0 up", "addr add 10.0.7.1/24 dev tun0")
    network.follow(lambda: network.interfaces.links.by_name("tun0") is not None, "the tunnel")
    tunnel = network.interfaces.links.by_name("tun0")
    assert network.next_hops.acquire("10.0.7.2", "").ingress == Ingress(tunnel.index, "")
    assert network.next_hops.acquire("192.0.2.1", "").ingress == NO_INGRESS


# Egress interfaces


def test_egress_is_attached_on_demand(network, callee_link):
    assert network.xdp_programs() == {}
    network.next_hops.acquire(known_neighbour(network), "")
    assert network.tier("to-callee") is Tier.XDP
    assert list(network.xdp_programs()) == ["to-callee"]


@pytest.fixture
def bridge(network):
    """An interface without native XDP, and a neighbour behind it."""
    network.ip("link add br0 type bridge", "link set br0 up", "addr add 10.0.7.1/24 dev br0")
    network.ip("link add veth0 type veth peer veth1", "link set veth0 master br0 up", "link set veth1 up")
    network.follow(lambda: getattr(network.interfaces.links.by_name("br0"), "is_up", False), "the bridge")
    known_neighbour(network, "10.0.7.2", MAC, "br0")
    return network.interfaces.links.by_name("br0")


@pytest.mark.vm
def test_egress_without_native_xdp_is_by_tc(network, topology, bridge):
    """Also for frames that arrive where XDP runs."""
    network.interfaces.attach(topology.caller.gateway.ifindex)
    route = network.next_hops.acquire("10.0.7.2", "")
    assert no_ingress(route) == Route(0, "10.0.7.1", "via 10.0.7.2 dev br0", 64, Tier.TC, False)
    assert network.rows == {0: NextHop(bridge.index, MAC, bridge.mac, 1500, None)}
    assert network.tc_programs() == {"br0": [TC_NAME], "to-caller": [TC_BEHIND_NAME]}


def test_egress_without_native_xdp_where_tc_is_forbidden(topology, loaded, network, bridge):
    strict = RelayNetwork(topology.relay, loaded, OffloadMode.XDP)
    route = strict.next_hops.acquire("10.0.7.2", "")
    assert isinstance(route, NoRoute)
    assert route.reason.startswith(
        "the egress interface cannot send redirected frames: br0: userspace (no native XDP: "
    )
    assert (strict.rows, strict.tc_programs()) == ({}, {})
    strict.close()


@pytest.mark.vm
def test_egress_that_takes_no_redirected_frames(network, topology, callee_link):
    """A veth whose far end has neither XDP nor GRO."""
    host = known_neighbour(network)
    topology.callee.run(["ethtool", "-K", topology.callee.ifname, "gro", "off"])
    route = network.next_hops.acquire(host, "")
    assert (route.tier, route.is_by_xdp) == (Tier.XDP, False)
    assert network.rows == {0: replace(to_callee(callee_link, MAC), xdp_way=None)}
    topology.callee.run(["ethtool", "-K", topology.callee.ifname, "gro", "on"])
    network.follow_links(network.interfaces.egress.check())
    assert network.rows == {0: to_callee(callee_link, MAC)}
    assert network.reroute() == [(host, "")]
    assert network.next_hops.current(host, "").is_by_xdp


def test_egress_that_takes_no_redirected_frames_any_more(network, topology, callee_link):
    network.next_hops.acquire(known_neighbour(network), "")
    topology.callee.run(["ethtool", "-K", topology.callee.ifname, "gro", "off"])
    network.follow_links(network.interfaces.egress.check())
    assert network.rows == {0: replace(to_callee(callee_link, MAC), xdp_way=None)}


def test_egress_that_is_not_ethernet(network):
    network.ip("tuntap add tun0 mode tun", "link set tun0 up", "addr add 10.0.7.1/24 dev tun0")
    network.follow(lambda: network.interfaces.links.by_name("tun0") is not None, "the tunnel")
    route = network.next_hops.acquire("10.0.7.2", "")
    assert (route.reason, bool(route.no_ingress)) == ("tun0 is not an Ethernet interface", True)


def test_routes_wait_for_the_program_of_the_egress(network, callee_link):
    """Whether XDP can send there is not known before."""
    network.being_loaded = {XDP_NAME}
    host = known_neighbour(network)
    route = network.next_hops.acquire(host, "")
    assert route.reason == route.no_ingress == "to-callee: userspace (the program is being loaded)"
    assert network.rows == {}
    assert network.is_loaded(XDP_NAME) == {callee_link.ifindex}
    assert network.reroute() == [(host, "")]
    assert network.next_hops.current(host, "").tier is Tier.XDP
    assert (network.rows, network.tc_programs()) == ({0: to_callee(callee_link, MAC)}, {})


def test_routes_wait_for_the_programs_of_tc(network, topology, bridge):
    """That of the interface itself, and those on interfaces with XDP by which packets come."""
    caller = topology.caller.gateway.ifindex
    network.interfaces.attach(caller)
    network.being_loaded = {TC_NAME, TC_BEHIND_NAME}
    route = network.next_hops.acquire("10.0.7.2", "")
    assert "no TC: the program is being loaded" in route.reason
    assert network.is_loaded(TC_NAME) == {bridge.index}
    assert network.reroute() == [("10.0.7.2", "")]
    route = network.next_hops.current("10.0.7.2", "")
    assert (route.reason, route.no_ingress) == ("the program that sends by br0 is being loaded", "")
    assert network.is_loaded(TC_BEHIND_NAME) == {caller}
    assert network.reroute() == [("10.0.7.2", "")]
    assert no_ingress(network.next_hops.current("10.0.7.2", "")).tier is Tier.TC
    assert network.tc_programs() == {"br0": [TC_NAME], "to-caller": [TC_BEHIND_NAME]}


# Routes


def test_route_by_a_gateway(network, callee_link):
    network.ip(f"route add {BEHIND}/32 via {known_neighbour(network)}")
    route = network.next_hops.acquire(BEHIND, "")
    assert no_ingress(route) == Route(0, "10.0.2.1", "via 10.0.2.50 dev to-callee", 64, Tier.XDP, True)
    assert network.rows == {0: to_callee(callee_link, MAC)}


def test_route_moves_to_another_gateway(told_senders, network, topology):
    network.ip(f"route add {BEHIND}/32 via {known_neighbour(network)}")
    known_neighbour(network, "10.0.1.50", OTHER_MAC, "to-caller")
    old = network.next_hops.acquire(BEHIND, "")
    assert network.reroute() == []
    network.ip(f"route replace {BEHIND}/32 via 10.0.1.50")
    assert network.reroute() == [(BEHIND, "")]
    new = network.next_hops.current(BEHIND, "")
    assert (new.from_host, new.description) == ("10.0.1.1", "via 10.0.1.50 dev to-caller")
    assert network.rows[old.number] is None
    link = topology.caller.gateway
    assert network.rows[new.number] == NextHop(link.ifindex, OTHER_MAC, link.mac, 1500, XdpWay(link.ifindex))


def test_route_goes_and_comes(network, callee_link):
    network.ip(f"route add {BEHIND}/32 via {known_neighbour(network)}")
    network.next_hops.acquire(BEHIND, "")
    network.ip(f"route del {BEHIND}/32")
    assert network.reroute() == [(BEHIND, "")]
    assert no_ingress(network.next_hops.current(BEHIND, "")) == NoRoute(f"no route to {BEHIND}: Network is unreachable")
    assert network.rows == {0: None}
    network.ip(f"route add {BEHIND}/32 via 10.0.2.50")
    assert network.reroute() == [(BEHIND, "")]
    assert network.rows[network.next_hops.current(BEHIND, "").number] == to_callee(callee_link, MAC)


def test_mtu_of_the_route(network, callee_link):
    network.ip(f"route add {BEHIND}/32 via {known_neighbour(network)} mtu 1280")
    network.next_hops.acquire(BEHIND, "")
    assert network.rows == {0: to_callee(callee_link, MAC, mtu=1280)}
    network.ip(f"route replace {BEHIND}/32 via 10.0.2.50 mtu 1300")
    network.reroute()
    assert network.rows[network.next_hops.current(BEHIND, "").number].mtu == 1300


def recheck(network):
    """Let a second pass. Returns the peers whose route changed."""
    network.next_hops.recheck_some()
    return network.next_hops.reroute(CAPACITY)


def test_mtu_of_the_path(network, topology, callee_link):
    """A router on the path asks for shorter packets; there is no event for that."""
    host = topology.callee.ip
    known_neighbour(network, host)
    network.next_hops.acquire(host, "")
    with topology.relay.socket() as sender:
        sender.bind(("10.0.2.1", 9))
        require_mtu(topology.callee, 1280, sender.getsockname(), (host, 9))
        wait_for(lambda: recheck(network) == [(host, "")], DEADLINE_S, "the path's MTU")
    assert network.rows[network.next_hops.current(host, "").number] == to_callee(callee_link, MAC, mtu=1280)
    assert recheck(network) == []


@pytest.mark.parametrize(("most", "seconds"), [(500, 20), (2, 21)])
def test_all_routes_are_asked_within_twenty_seconds_or_as_fast_as_is_cheap(network, monkeypatch, most, seconds):
    """A few a second, and each once."""
    monkeypatch.setattr(nexthop, "RECHECKED_PER_SECOND", most)
    peers = [f"198.51.100.{number}" for number in range(1, 42)]
    gateway = known_neighbour(network)
    network.ip(f"route add 198.51.100.0/24 via {gateway}")
    for peer in peers:
        network.next_hops.acquire(peer, "")
    network.ip(f"route replace 198.51.100.0/24 via {gateway} mtu 1400")
    network.next_hops.recheck_some()
    shares = [recheck(network) for _ in range(seconds)]
    assert sorted(host for share in shares for host, _ in share) == sorted(peers)
    assert max(map(len, shares)) <= min(most, 3)


def test_mtu_of_the_route_above_that_of_the_link(network):
    network.ip(f"route add {BEHIND}/32 via {known_neighbour(network)} mtu 9000")
    network.next_hops.acquire(BEHIND, "")
    assert network.rows[0].mtu == 1500


@pytest.mark.parametrize("order", [(1280, 1500), (1500, 1280)], ids=str)
def test_routes_of_unlike_mtu_through_one_gateway(network, order):
    """A packet must not leave by a route with a smaller MTU, whichever was asked for last."""
    gateway = known_neighbour(network)
    peers = {mtu: f"198.51.100.{number}" for number, mtu in enumerate(order, 1)}
    for mtu, peer in peers.items():
        network.ip(f"route add {peer}/32 via {gateway} mtu {mtu}")
    routes = {mtu: network.next_hops.acquire(peer, "") for mtu, peer in peers.items()}
    assert network.rows[routes[1280].number].mtu == 1280
    network.reroute()
    assert network.rows[routes[1280].number].mtu == 1280


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("10.0.1.1", "10.0.1.1 is an address of this host"),
        ("127.0.0.1", "127.0.0.1 is an address of this host"),
        ("10.0.2.255", "10.0.2.255 is not reached by an ordinary route"),
        ("224.0.0.5", "no route to 224.0.0.5: Network is unreachable"),
        ("203.0.113.1", "no route to 203.0.113.1: No route to host"),
        ("203.0.113.2", "no route to 203.0.113.2: Invalid argument"),
        ("203.0.113.3", "no route to 203.0.113.3: Permission denied"),
        ("192.0.2.1", "no route to 192.0.2.1: Network is unreachable"),
    ],
)
def test_no_way(network, host, reason):
    network.ip(
        "route add unreachable 203.0.113.1/32",
        "route add blackhole 203.0.113.2/32",
        "route add prohibit 203.0.113.3/32",
    )
    assert no_ingress(network.next_hops.acquire(host, "")) == NoRoute(reason)
    assert network.rows == {}
    network.next_hops.release(host, "")


def test_where_nothing_that_arrives_is_forwarded(network):
    """This is not the same as a peer that cannot be reached for another reason."""
    network.ip("route add unreachable 203.0.113.1/32")
    reasons = [network.next_hops.acquire(host, "").no_ingress for host in ("10.0.1.1", "203.0.113.1")]
    assert reasons == ["lo: userspace (not an Ethernet interface)", ""]


def test_address_that_becomes_ours(network):
    host = known_neighbour(network)
    network.next_hops.acquire(host, "")
    network.ip(f"addr add {host}/32 dev lo")
    assert network.reroute() == [(host, "")]
    assert no_ingress(network.next_hops.current(host, "")) == NoRoute(f"{host} is an address of this host")
    assert network.rows == {0: None}


def test_local_address_is_that_of_the_route_unless_given(network):
    network.ip("addr add 10.0.2.11/24 dev to-callee")
    host = known_neighbour(network)
    assert network.next_hops.acquire(host, "").from_host == "10.0.2.1"
    assert network.next_hops.acquire(host, "10.0.2.11").from_host == "10.0.2.11"
    network.ip(f"route add {host}/32 dev to-callee src 10.0.2.11")
    assert network.reroute() == [(host, "")]
    assert network.next_hops.current(host, "").from_host == "10.0.2.11"


def test_rules_by_local_address(network, topology):
    network.ip("addr add 10.0.2.11/24 dev to-callee", "rule add from 10.0.2.11 table 7")
    network.ip("route add default via 10.0.1.50 table 7", f"route add {BEHIND}/32 via 10.0.2.50")
    routes = [network.next_hops.acquire(BEHIND, host).description for host in ("10.0.2.1", "10.0.2.11")]
    assert routes == ["via 10.0.2.50 dev to-callee", "via 10.0.1.50 dev to-caller"]


def test_local_address_that_is_not_ours(network):
    known_neighbour(network)
    assert isinstance(network.next_hops.acquire("10.0.2.50", "192.0.2.200"), NoRoute)


# Rows


def test_peers_behind_one_gateway_share_a_row(network, callee_link):
    network.ip(f"route add 198.51.100.0/24 via {known_neighbour(network)}")
    peers = [f"198.51.100.{number}" for number in range(1, 20)]
    assert {network.next_hops.acquire(peer, "").number for peer in peers} == {0}
    for peer in peers[1:]:
        network.next_hops.release(peer, "")
        assert network.rows == {0: to_callee(callee_link, MAC)}
    network.next_hops.release(peers[0], "")
    assert network.rows == {0: None}


def test_route_is_kept_for_its_last_user(network):
    host = known_neighbour(network)
    for _ in range(2):
        network.next_hops.acquire(host, "")
    network.next_hops.release(host, "")
    assert network.rows[0] is not None
    network.next_hops.release(host, "")
    assert network.rows[0] is None
    with pytest.raises(KeyError):
        network.next_hops.current(host, "")


def test_full_table(network):
    peers = [f"10.0.2.{number}" for number in range(100, 100 + CAPACITY)]
    assert {network.next_hops.acquire(peer, "").number for peer in peers} == set(range(CAPACITY))
    assert no_ingress(network.next_hops.acquire("10.0.2.200", "")) == NoRoute("the table of next hops is full")
    network.next_hops.release(peers[3], "")
    assert network.next_hops.acquire("10.0.2.201", "").number == 3
    assert network.reroute() == []


def test_number_is_not_used_again_while_an_entry_names_it(network):
    """An error came after the route changed, and before the entry was placed again."""
    network.ip(f"route add {BEHIND}/32 via {known_neighbour(network)}")
    rows = FakeRows()
    forwarder = Forwarder(rows, network.next_hops, Contradictions(lambda key: 0))
    entry = ForwardingEntry(1, "10.0.1.1", Endpoint("10.0.1.2", 5004), False, True, "", 2, Endpoint(BEHIND, 1), 0xB8)
    forwarder.apply(FakeOwner("call"), {1: entry}, 0.0)
    named = rows.rows[1][2]
    network.ip(f"route replace {BEHIND}/32 via 10.0.2.51")
    install, rows.install = rows.install, None
    network.next_hops.start_reroute()
    with pytest.raises(TypeError):
        forwarder.reroute(CAPACITY, 0.0)
    others = [network.next_hops.acquire(f"10.0.2.{number}", "") for number in range(100, 100 + CAPACITY)]
    assert named not in {other.number for other in others if isinstance(other, Route)}
    rows.install = install
    forwarder.withdraw(1, "deleted", 0.0)
    assert named in iter(network.next_hops.numbers.take, None)


def test_an_error_loses_no_route_that_changed(network):
    peers = [f"198.51.100.{number}" for number in range(3)]
    network.ip("route add 198.51.100.0/24 via 10.0.2.50")
    for peer in peers:
        network.next_hops.acquire(peer, "")
    network.ip("route replace 198.51.100.0/24 via 10.0.1.50")
    network.next_hops.start_reroute()
    accept, asked = network.next_hops._accept, []

    def fail_at_the_second(*answer):
        asked.append(answer)
        if len(asked) == 2:
            raise RuntimeError("between")
        return accept(*answer)

    network.next_hops._accept = fail_at_the_second
    with pytest.raises(RuntimeError, match="between"):
        network.next_hops.reroute(CAPACITY)
    assert network.next_hops.reroute(CAPACITY) == [(peers[0], ""), (peers[2], "")]


def test_routes_with_the_same_answer_stay_as_they_are(network, callee_link):
    """Their rows are not taken anew; those of a changed interface are."""
    peers = [f"198.51.100.{number}" for number in range(3)]
    gateway = known_neighbour(network)
    network.ip(f"route add 198.51.100.0/24 via {gateway}")
    routes = [network.next_hops.acquire(peer, "10.0.2.1") for peer in peers]
    network.next_hops.start_reroute(are_interfaces_same=True)
    assert network.next_hops.reroute(CAPACITY) == []
    for peer, route in zip(peers, routes, strict=True):
        assert network.next_hops.current(peer, "10.0.2.1") is route
    network.ip(f"route replace {peers[1]}/32 via {gateway} mtu 1400", f"route add unreachable {peers[2]}")
    network.next_hops.start_reroute(are_interfaces_same=True)
    assert network.next_hops.reroute(CAPACITY) == [(peer, "10.0.2.1") for peer in peers[1:]]
    network.ip("addr del 10.0.2.1/24 dev to-callee", "addr add 10.0.2.9/24 dev to-callee")
    network.ip(f"route add 198.51.100.0/24 via {gateway}")
    network.next_hops.start_reroute(are_interfaces_same=True)
    network.next_hops.reroute(CAPACITY)
    reason = "10.0.2.1 is not an address of this host now"
    assert no_ingress(network.next_hops.current(peers[0], "10.0.2.1")) == NoRoute(reason, reason)


def test_routes_are_asked_for_in_one_call(network):
    """A question of its own for each took ten times as long."""
    peers = [f"198.51.100.{number}" for number in range(6)]
    network.ip("route add 198.51.100.0/24 via 10.0.2.50")
    for peer in peers:
        network.next_hops.acquire(peer, "")
    ask, asked = network.netlink.ask_each, []
    network.netlink.ask_each = lambda kind, bodies: asked.append(len(bodies)) or ask(kind, bodies)
    network.next_hops.start_reroute()
    network.next_hops.reroute(4)
    network.next_hops.reroute(4)
    assert asked == [4, 2]


def test_reroute_in_parts(network):
    peers = [f"198.51.100.{number}" for number in range(5)]
    network.ip("route add 198.51.100.0/24 via 10.0.2.50")
    for peer in peers:
        network.next_hops.acquire(peer, "")
    network.ip("route replace 198.51.100.0/24 via 10.0.1.50")
    network.next_hops.start_reroute()
    network.next_hops.release(peers[1], "")
    found = []
    while not network.next_hops.is_rerouted:
        found.append(network.next_hops.reroute(2))
    assert found == [[(peers[0], "")], [(peers[2], ""), (peers[3], "")], [(peers[4], "")]]


def test_events_that_go_on_do_not_starve_the_last_routes(network):
    peers = [f"198.51.100.{number}" for number in range(6)]
    network.ip("route add 198.51.100.0/24 via 10.0.2.50")
    for peer in peers:
        network.next_hops.acquire(peer, "")
    network.ip("route replace 198.51.100.0/24 via 10.0.1.50")
    found = []
    for _ in range(3):
        network.next_hops.start_reroute()
        found += network.next_hops.reroute(2)
    assert found == [(peer, "") for peer in peers]


def test_no_frame_takes_the_way_of_another_peer_meanwhile(network):
    """A row that one peer's entries still name goes to no other neighbour before they are placed again."""
    gateways = {f"10.0.2.{number}": f"02:00:00:00:00:{number}" for number in (50, 51, 60, 61)}
    for gateway, mac in gateways.items():
        known_neighbour(network, gateway, mac)
    peers = {"198.51.100.1": ("10.0.2.50", "10.0.2.60"), "198.51.100.2": ("10.0.2.51", "10.0.2.61")}
    rows = FakeRows()
    forwarder = Forwarder(rows, network.next_hops, Contradictions(lambda _: 0))
    for port, (peer, (before, _)) in enumerate(peers.items(), 1):
        network.ip(f"route add {peer}/32 via {before}")
        to, source = Endpoint(peer, 1), Endpoint("10.0.1.2", 5004)
        wanted = {port: ForwardingEntry(port, "10.0.1.1", source, False, True, "", 2, to, 0xB8)}
        forwarder.apply(FakeOwner("call"), wanted, 0.0)
    ways = []

    def record(number, hop):
        network.rows[number] = hop
        ways.extend((entry.to.host, network.rows[row]) for entry, _, row in rows.rows.values())

    network.neighbours._write = record
    for peer, (_, after) in peers.items():
        network.ip(f"route replace {peer}/32 via {after}")
    network.take_events()
    network.next_hops.start_reroute()
    forwarder.reroute(CAPACITY, 0.0)

    macs = {peer: {gateways[before], gateways[after]} for peer, (before, after) in peers.items()}
    assert [way for way in ways if way[1] and way[1].to_mac not in macs[way[0]]] == []
