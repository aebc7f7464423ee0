"""Neighbours and links that come, change and go in a namespace; rows of the next hop table follow."""

import logging
from dataclasses import replace

import pytest

from rtpproxy.offload import neighbours
from rtpproxy.offload.entry import Tier
from rtpproxy.offload.nexthop import NoRoute, Route
from tests.offload.relay_network import (
    MAC,
    OTHER_MAC,
    RelayNetwork,
    known_neighbour,
    no_ingress,
    row_becomes,
    to_callee,
)

pytestmark = [pytest.mark.root, pytest.mark.kernel]

UNRESOLVED = "10.0.2.99"
"""A peer that does not exist."""


def test_neighbour_on_the_link(network, callee_link):
    route = network.next_hops.acquire(known_neighbour(network), "")
    assert no_ingress(route) == Route(0, "10.0.2.1", "via 10.0.2.50 dev to-callee", 64, Tier.XDP, True)
    assert network.rows == {0: to_callee(callee_link, MAC)}
    assert network.next_hops.current("10.0.2.50", "") is route


def test_neighbour_that_was_there_before(topology, network, loaded, callee_link):
    network.ip(f"neigh replace 10.0.2.50 lladdr {MAC} dev to-callee nud permanent")
    later = RelayNetwork(topology.relay, loaded)
    later.next_hops.acquire("10.0.2.50", "")
    assert later.rows == {0: to_callee(callee_link, MAC)}
    later.close()


@pytest.mark.vm
def test_neighbour_that_must_be_asked_for(network, topology, callee_link):
    """The kernel resolves it, because of a packet, or because the relay asks."""
    network.next_hops.acquire(topology.callee.ip, "")
    with topology.relay.socket() as any_socket:
        any_socket.sendto(b"", (topology.callee.ip, 9))
    row_becomes(network, 0, to_callee(callee_link, topology.callee.mac))


def test_neighbour_changes_and_goes(network, callee_link, caplog):
    caplog.set_level(logging.INFO, "rtpproxy.offload.neighbours")
    host = known_neighbour(network)
    network.next_hops.acquire(host, "")
    known_neighbour(network, mac=OTHER_MAC)
    row_becomes(network, 0, to_callee(callee_link, OTHER_MAC))
    network.ip(f"neigh del {host} dev to-callee")
    row_becomes(network, 0, None)
    known_neighbour(network)
    row_becomes(network, 0, to_callee(callee_link, MAC))
    usable = f"next hop {host} on to-callee is {MAC}: its streams are forwarded by the kernel"
    gone = f"next hop {host} on to-callee is not usable: its streams are relayed by userspace"
    assert caplog.messages == [usable, gone, usable]


def test_neighbour_that_does_not_answer(told_senders, network, topology):
    route = network.next_hops.acquire(UNRESOLVED, "")
    assert no_ingress(route) == Route(0, "10.0.2.1", f"via {UNRESOLVED} dev to-callee", 64, Tier.XDP, True)
    assert network.rows == {0: None}
    network.host.run(["sysctl", "-w", "net.ipv4.neigh.to-callee.retrans_time_ms=10"])
    with topology.relay.socket() as any_socket:
        any_socket.sendto(b"", (UNRESOLVED, 9))
    wait_state(network, UNRESOLVED, "FAILED")
    network.take_events()
    assert network.rows == {0: None}


def wait_state(network, host, *states):
    def state():
        shown = network.host.run(["ip", "neigh", "show", host]).stdout.split()
        return bool(shown) and shown[-1] in states

    network.follow(state, f"{host} to be {' or '.join(states)}")


def test_neighbour_that_was_not_heard_of_is_asked(network, topology):
    network.ip(f"neigh replace {topology.callee.ip} lladdr {topology.callee.mac} dev to-callee nud stale")
    network.take_events()
    network.next_hops.acquire(topology.callee.ip, "")
    wait_state(network, topology.callee.ip, "DELAY", "PROBE", "REACHABLE")


@pytest.mark.vm
def test_neighbour_in_use_that_becomes_stale_is_asked(network, topology):
    network.next_hops.acquire(topology.callee.ip, "")
    network.ip(f"neigh replace {topology.callee.ip} lladdr {topology.callee.mac} dev to-callee nud stale")
    wait_state(network, topology.callee.ip, "DELAY", "PROBE", "REACHABLE")
    assert network.rows[0].to_mac == topology.callee.mac


def test_rows_are_not_written_for_a_state_alone(network, topology):
    """Most events of a neighbour in use tell that it was confirmed."""
    host = topology.callee.ip
    network.ip(f"neigh replace {host} lladdr {MAC} dev to-callee nud reachable")
    network.take_events()
    network.next_hops.acquire(host, "")
    network.take_events()  # that our program was attached is one
    written = len(network.written)
    for state in ("permanent", "reachable", "permanent"):
        network.ip(f"neigh replace {host} lladdr {MAC} dev to-callee nud {state}")
    assert network.take_events() != []
    assert len(network.written) == written
    network.ip(f"neigh replace {host} lladdr {OTHER_MAC} dev to-callee nud permanent")
    network.take_events()
    assert len(network.written) == written + 1


def test_neighbours_of_others_are_not_looked_at(network):
    network.next_hops.acquire(known_neighbour(network), "")
    network.take_events()
    written = len(network.written)
    known_neighbour(network, "10.0.2.51", OTHER_MAC)
    known_neighbour(network, "10.0.1.50", OTHER_MAC, "to-caller")
    assert len(network.written) == written


def test_all_neighbours_are_confirmed_in_turn(network, topology):
    """Also reachable ones, since forwarded frames do not keep them so. Permanent ones are left out."""
    network.next_hops.acquire(known_neighbour(network), "")
    for phone in (topology.caller, topology.callee):
        network.next_hops.acquire(phone.ip, "")
        network.ip(f"neigh replace {phone.ip} lladdr {phone.mac} dev {phone.gateway.ifname} nud reachable")
    network.take_events()
    for phone in (topology.caller, topology.callee):  # stale, and no event yet
        network.ip(f"neigh replace {phone.ip} lladdr {phone.mac} dev {phone.gateway.ifname} nud stale")
    for _ in range(3):
        network.neighbours.confirm_some()
    for phone in (topology.caller, topology.callee):
        shown = topology.relay.run(["ip", "neigh", "show", phone.ip]).stdout.split()
        assert shown[-1] in ("DELAY", "PROBE", "REACHABLE")


@pytest.mark.parametrize(("most", "share"), [(500, 3), (2, 2)])
def test_a_share_of_the_neighbours_is_confirmed_each_second(network, monkeypatch, most, share):
    monkeypatch.setattr(neighbours, "CONFIRM_INTERVAL_S", 2)
    monkeypatch.setattr(neighbours, "CONFIRMED_PER_SECOND", most)
    hosts = [f"10.0.2.{number}" for number in range(100, 106)]
    for host in hosts:
        network.next_hops.acquire(host, "")
    added = []
    monkeypatch.setattr(network.neighbours._confirmations, "add", lambda some: added.append(list(some)))
    for _ in range(len(hosts) // share):
        network.neighbours.confirm_some()
    assert sorted(host for some in added for _, host in some) == hosts
    assert max(map(len, added)) == share


def test_lost_events(network, callee_link):
    network.next_hops.acquire(known_neighbour(network), "")
    network.ip(f"neigh replace 10.0.2.50 lladdr {OTHER_MAC} dev to-callee nud permanent")
    network.events.read()
    assert network.rows == {0: to_callee(callee_link, MAC)}
    network.neighbours.reload()
    network.work_off()
    assert network.rows == {0: to_callee(callee_link, OTHER_MAC)}
    network.ip("neigh del 10.0.2.50 dev to-callee")
    network.events.read()
    network.neighbours.reload()
    network.work_off()
    assert network.rows == {0: None}


def many_neighbours(network, mac=MAC, count=1500):
    """Add neighbours that fill several parts of the kernel's list. Returns their addresses."""
    hosts = [f"10.0.{4 + number // 250}.{1 + number % 250}" for number in range(count)]
    commands = [f"neigh replace {host} lladdr {mac} dev to-callee nud permanent" for host in hosts]
    network.host.run(["ip", "-batch", "-"], input="\n".join(["addr replace 10.0.3.1/16 dev to-callee", *commands]))
    return hosts


def test_neighbours_are_listed_again_in_parts(network):
    """Between them, others get their turn."""
    *_, host = many_neighbours(network)
    network.take_events()
    network.next_hops.acquire(host, "")
    many_neighbours(network, OTHER_MAC)
    while network.events.read():
        pass
    network.neighbours.reload()
    steps = 1
    while network.neighbours.work_off(8):
        steps += 1
    assert steps > 3
    assert network.rows[0].to_mac == OTHER_MAC


def test_events_while_neighbours_are_listed_again(network):
    """They are newer than the list."""
    first, *_, last = many_neighbours(network)
    network.take_events()
    for host in (first, last):
        network.next_hops.acquire(host, "")
    network.neighbours.reload()
    assert network.neighbours.work_off(8)
    for host in (first, last):
        network.ip(f"neigh replace {host} lladdr {OTHER_MAC} dev to-callee nud permanent")
    network.take_events()
    network.work_off()
    assert [network.rows[number].to_mac for number in (0, 1)] == [OTHER_MAC, OTHER_MAC]


def test_events_that_are_lost_while_neighbours_are_listed_again(network):
    """The list is read once more, since its parts may be older than what was lost."""
    first, *_ = many_neighbours(network)
    network.take_events()
    network.next_hops.acquire(first, "")
    network.neighbours.reload()
    assert network.neighbours.work_off(8)
    network.ip(f"neigh replace {first} lladdr {OTHER_MAC} dev to-callee nud permanent")
    while network.events.read():
        pass
    network.neighbours.reload()
    network.work_off()
    assert network.rows[0].to_mac == OTHER_MAC


# Links


def test_carrier_goes_and_comes(network, topology, callee_link):
    network.next_hops.acquire(known_neighbour(network), "")
    topology.callee.run(["ip", "link", "set", topology.callee.ifname, "down"])
    row_becomes(network, 0, None)
    topology.callee.run(["ip", "link", "set", topology.callee.ifname, "up"])
    row_becomes(network, 0, to_callee(callee_link, MAC))


def test_link_is_set_down_and_up(network, callee_link):
    host = known_neighbour(network)
    network.next_hops.acquire(host, "")
    network.ip("link set to-callee down")
    row_becomes(network, 0, None)
    assert network.reroute() == [(host, "")]
    assert isinstance(network.next_hops.current(host, ""), NoRoute)
    network.ip("link set to-callee up")
    network.follow(lambda: network.interfaces.links.get(callee_link.ifindex).is_up, "the link")
    known_neighbour(network)
    assert network.reroute() == [(host, "")]
    assert network.rows[network.next_hops.current(host, "").number] == to_callee(callee_link, MAC)


def test_link_vanishes(network):
    host = known_neighbour(network)
    network.next_hops.acquire(host, "")
    network.ip("link del to-callee")
    row_becomes(network, 0, None)
    assert network.reroute() == [(host, "")]
    assert no_ingress(network.next_hops.current(host, "")) == NoRoute(f"no route to {host}: Network is unreachable")
    network.next_hops.release(host, "")


def test_mtu_and_mac_of_the_link(network, callee_link):
    network.next_hops.acquire(known_neighbour(network), "")
    network.ip("link set to-callee mtu 1400")
    row_becomes(network, 0, to_callee(callee_link, MAC, mtu=1400))
    network.ip("link set to-callee address 02:00:00:00:02:aa")  # the kernel forgets its neighbours
    row_becomes(network, 0, None)
    known_neighbour(network)
    row_becomes(network, 0, replace(to_callee(callee_link, MAC, 1400), from_mac="02:00:00:00:02:aa"))


def test_link_gets_a_larger_mtu(network, topology):
    host = known_neighbour(network)
    network.next_hops.acquire(host, "")
    network.ip("link set to-callee mtu 2000")
    network.follow(lambda: network.interfaces.links.by_name("to-callee").mtu == 2000, "the MTU")
    network.reroute()
    assert network.rows[0].mtu == 2000
