"""Messages of rtnetlink, read and written; pyroute2 has the other end."""

import socket

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from rtpproxy.network.messages import (
    HEADER,
    Address,
    Answer,
    Destination,
    Neighbour,
    attributes,
    interface_of_filter,
    neighbour_request,
    read_address,
    read_answer,
    read_destination,
    read_neighbour,
    route_request,
    routes_of_table,
    split,
    state_of_neighbour,
    use_of_neighbour,
)

IPV4, IPV6, BRIDGE = socket.AF_INET, socket.AF_INET6, 7
MAC = "02:00:00:00:00:77"
UNICAST, LOCAL = 1, 2
REACHABLE = 2


def message(kind, *attributes, **members):
    """A message that pyroute2 writes."""
    written = kind()
    for name, value in members.items():
        written[name] = value
    written["attrs"] = list(attributes)
    written.encode()
    return bytes(written.data)


def understood(kind, body):
    """A request as pyroute2 reads it."""
    read = kind(HEADER.pack(HEADER.size + len(body), 0, 0, 0, 0) + body)
    read.decode()
    return read


# Messages and attributes


def test_datagram_with_several_messages():
    first, second = (HEADER.pack(HEADER.size + length, 16, 2, 7, 0) + bytes(length) for length in (5, 8))
    found = list(split(first + bytes(3) + second))
    assert found == [(16, 2, 7, first), (16, 2, 7, second)]


@pytest.mark.parametrize("data", [b"", b"\x10\0\0", HEADER.pack(0, 16, 0, 0, 0), HEADER.pack(15, 16, 0, 0, 0)])
def test_datagram_that_makes_no_sense(data):
    assert list(split(data)) == []


@pytest.mark.parametrize("data", [b"\4\0\1", b"\3\0\1\0", b"\0\0\0\0"])
def test_attributes_that_make_no_sense(data):
    assert attributes(b"\x05\0\2\x80x\0\0\0" + data) == {2: b"x"}


# What the kernel tells


@pytest.mark.parametrize(
    ("family", "sent", "expected"),
    [
        (IPV4, [("IFA_ADDRESS", "10.0.1.1"), ("IFA_LOCAL", "10.0.1.1")], Address("10.0.1.1", 7, "")),
        (IPV4, [("IFA_ADDRESS", "10.0.1.2"), ("IFA_LOCAL", "10.0.1.1")], Address("10.0.1.1", 7, "")),
        (IPV4, [("IFA_ADDRESS", "10.0.1.1"), ("IFA_BROADCAST", "10.0.1.255")], Address("10.0.1.1", 7, "10.0.1.255")),
        (IPV6, [("IFA_ADDRESS", "fd00::1")], Address("fd00::1", 7, "")),
        (IPV6, [("IFA_ADDRESS", "fd00::2"), ("IFA_LOCAL", "fd00::1")], Address("fd00::1", 7, "")),
        (BRIDGE, [], Address("", 7, "")),
    ],
)
def test_addresses(family, sent, expected):
    assert read_address(message(ifaddrmsg, *sent, family=family, index=7)) == expected


@pytest.mark.parametrize(
    ("family", "host", "mac", "expected"),
    [
        (IPV4, "10.0.1.2", MAC, Neighbour(7, "10.0.1.2", MAC, REACHABLE)),
        (IPV6, "fe80::1", MAC, Neighbour(7, "fe80::1", MAC, REACHABLE)),
        (IPV4, "10.0.1.2", "", Neighbour(7, "10.0.1.2", "", REACHABLE)),
        (BRIDGE, "", MAC, Neighbour(7, "", MAC, REACHABLE)),
    ],
)
def test_neighbours(family, host, mac, expected):
    sent = [(name, value) for name, value in (("NDA_DST", host), ("NDA_LLADDR", mac)) if value]
    told = message(ndmsg, *sent, family=family, ifindex=7, state=REACHABLE)
    assert read_neighbour(told) == expected
    assert state_of_neighbour(told) == REACHABLE


def answer(*attributes, family=IPV4):
    return read_answer(message(rtmsg, ("RTA_OIF", 7), *attributes, family=family, type=UNICAST))


def test_answers():
    plain = answer(("RTA_PREFSRC", "10.0.1.1"))
    assert plain == Answer(IPV4, UNICAST, 7, bytes([10, 0, 1, 1]), b"", b"", b"", False)
    assert (plain.source, plain.gateway, plain.mtu, plain.hop_limit) == ("10.0.1.1", "", 0, 0)
    assert answer(("RTA_GATEWAY", "10.0.1.9")).gateway == "10.0.1.9"
    assert answer(("RTA_GATEWAY", "fe80::9"), family=IPV6).gateway == "fe80::9"
    assert answer(("RTA_VIA", {"family": IPV6, "addr": "fe80::9"})).gateway == "fe80::9"
    limited = answer(("RTA_METRICS", {"attrs": [("RTAX_MTU", 1280), ("RTAX_HOPLIMIT", 9)]}))
    assert (limited.mtu, limited.hop_limit) == (1280, 9)


def test_answers_compare_by_what_matters():
    """Not by the age of the route, nor by the peer."""
    one = answer(("RTA_DST", "10.0.1.2"), ("RTA_CACHEINFO", {"rta_expires": 5}))
    other = answer(("RTA_DST", "10.0.1.3"), ("RTA_CACHEINFO", {"rta_expires": 4}))
    assert one == other
    assert one != answer(("RTA_METRICS", {"attrs": [("RTAX_MTU", 1280)]}))


def test_route_without_an_interface():
    assert read_answer(message(rtmsg, family=IPV4, type=UNICAST)).ifindex == 0


@pytest.mark.parametrize(
    ("family", "sent", "expected"),
    [
        (IPV4, [("RTA_DST", "10.0.1.0"), ("RTA_TABLE", 255)], Destination(LOCAL, 255, "10.0.1.0", 24)),
        (IPV6, [("RTA_DST", "fd00::"), ("RTA_TABLE", 1000)], Destination(LOCAL, 1000, "fd00::", 24)),
        (IPV4, [], Destination(LOCAL, 254, "0.0.0.0", 24)),
        (IPV6, [], Destination(LOCAL, 254, "::", 24)),
    ],
)
def test_routes_of_a_table(family, sent, expected):
    assert read_destination(message(rtmsg, *sent, family=family, type=LOCAL, table=254, dst_len=24)) == expected


def test_filters():
    assert interface_of_filter(message(tcmsg, ("TCA_KIND", "bpf"), index=7, parent=3)) == 7


# What the kernel is asked


@pytest.mark.parametrize(
    ("to_host", "from_host", "family", "bits"),
    [("10.0.1.2", "", IPV4, 32), ("10.0.1.2", "10.0.1.1", IPV4, 32), ("fd00::2", "fd00::1", IPV6, 128)],
)
def test_question_for_a_route(to_host, from_host, family, bits):
    asked = understood(rtmsg, route_request(to_host, from_host))
    assert (asked["family"], asked["dst_len"], asked["src_len"]) == (family, bits, bits if from_host else 0)
    assert (asked.get_attr("RTA_DST"), asked.get_attr("RTA_SRC")) == (to_host, from_host or None)


def test_question_for_a_table():
    asked = understood(rtmsg, routes_of_table(IPV6, 255))
    assert (asked["family"], asked["table"], asked["dst_len"]) == (IPV6, 255, 0)


@pytest.mark.parametrize(("host", "family"), [("10.0.1.2", IPV4), ("fd00::2", IPV6)])
def test_question_for_a_neighbour_and_its_use(host, family):
    asked = understood(ndmsg, use_of_neighbour(7, host))
    assert (asked["family"], asked["ifindex"], asked["flags"], asked["state"]) == (family, 7, 1, 0)
    assert asked.get_attr("NDA_DST") == host
    asked = understood(ndmsg, neighbour_request(7, host))
    assert (asked["family"], asked["ifindex"], asked["flags"], asked["state"]) == (family, 7, 0, 0)
    assert asked.get_attr("NDA_DST") == host
