"""Requests to the kernel, in a namespace of the test."""

import errno
import socket

import pytest
from pyroute2.netlink.rtnl import RTM_DELNEIGH, RTM_GETLINK, RTM_GETROUTE, RTM_NEWLINK, RTM_NEWNEIGH
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from rtpproxy.errors import OffloadError
from rtpproxy.network.netlink import NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, attribute

pytestmark = [pytest.mark.root, pytest.mark.kernel]

STALE = 0x04


def neighbour(topology, host="10.0.1.77", mac="02:00:00:00:00:77"):
    message = ndmsg()
    message["family"], message["state"] = socket.AF_INET, STALE
    message["ifindex"] = topology.caller.gateway.ifindex
    message["attrs"] = [("NDA_DST", host), ("NDA_LLADDR", mac)]
    return message


def route_to(host):
    message = rtmsg()
    message["family"], message["dst_len"] = socket.AF_INET, 32
    message["attrs"] = [("RTA_DST", host)]
    return message


def names(netlink):
    answers = netlink.request(ifinfmsg(), RTM_GETLINK, NLM_F_DUMP)
    return [attribute(answer, "IFLA_IFNAME") for answer in answers]


def test_dump(netlink):
    assert sorted(names(netlink)) == ["lo", "to-callee", "to-caller"]


def test_dump_of_more_than_one_datagram(netlink, topology):
    count = 120
    commands = "\n".join(f"link add br{number} type bridge" for number in range(count))
    topology.relay.run(["ip", "-batch", "-"], input=commands)
    assert len(set(names(netlink))) == len(names(netlink)) == 3 + count


def test_one_answer(netlink, topology):
    (answer,) = netlink.request(route_to("10.0.2.2"), RTM_GETROUTE)
    assert attribute(answer, "RTA_OIF") == topology.callee.gateway.ifindex
    assert attribute(answer, "RTA_PREFSRC") == "10.0.2.1"
    assert attribute(answer, "RTA_GATEWAY") is None


def test_no_answer(netlink, topology):
    assert netlink.request(neighbour(topology), RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE) == []


def test_error_number(netlink):
    with pytest.raises(OffloadError) as caught:
        netlink.request(route_to("198.51.100.1"), RTM_GETROUTE)
    assert str(caught.value) == "Network is unreachable"
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENETUNREACH


def test_kernels_own_words(netlink, topology):
    message = ifinfmsg()
    message["index"] = topology.caller.gateway.ifindex
    message["attrs"] = [("IFLA_MTU", 10)]
    with pytest.raises(OffloadError, match=r"^mtu less than device minimum$") as caught:
        netlink.request(message, RTM_NEWLINK)
    assert caught.value.__cause__.errno == errno.EINVAL


def test_requests_go_on_after_an_error(netlink, topology):
    for _ in range(3):
        with pytest.raises(OffloadError):
            netlink.request(neighbour(topology), RTM_DELNEIGH)
        assert len(names(netlink)) == 3
