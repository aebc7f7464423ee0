"""Requests to the kernel, in a namespace of the test."""

import contextlib
import errno
import socket

import pytest
from pyroute2.netlink.rtnl import (
    RTM_DELNEIGH,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_GETROUTE,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
)
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from rtpproxy.errors import OffloadError
from rtpproxy.network.messages import (
    ALL_ADDRESSES,
    ALL_LINKS,
    ALL_NEIGHBOURS,
    read_address,
    read_answer,
    read_link_message,
    read_neighbour,
    route_request,
    routes_of_table,
    use_of_neighbour,
)
from rtpproxy.network.netlink import (
    LIST_TRIES,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REPLACE,
    Rtnetlink,
    attribute,
)

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


# Without pyroute2


def test_list(netlink):
    found = netlink.dump(RTM_GETLINK, ALL_LINKS)
    assert sorted(read_link_message(message).name for message in found) == ["lo", "to-callee", "to-caller"]


def test_list_in_parts(netlink, topology):
    """Each is short, so that others get their turn between them."""
    count = 2000
    dev = topology.caller.gateway.ifname
    topology.relay.run(["ip", "addr", "add", "10.7.0.1/16", "dev", dev])
    hosts = [f"10.7.{1 + number // 250}.{1 + number % 250}" for number in range(count)]
    commands = "\n".join(f"neigh replace {host} lladdr 02:00:00:00:00:07 dev {dev} nud permanent" for host in hosts)
    topology.relay.run(["ip", "-batch", "-"], input=commands)
    parts = list(netlink.dump_parts(RTM_GETNEIGH, ALL_NEIGHBOURS))
    found = [read_neighbour(message).host for part in parts for message in part]
    assert sorted(host for host in found if host.startswith("10.7.")) == sorted(hosts)
    assert max(map(len, parts)) < 1000


def test_list_that_is_refused(netlink):
    with pytest.raises(OffloadError, match="Operation not supported"):
        netlink.dump(RTM_NEWLINK + 1000, ALL_LINKS)
    assert len(netlink.dump(RTM_GETLINK, ALL_LINKS)) == 3


def test_list_that_ends_with_an_error(topology):
    """The kernel tells at the end that it could not go through the list, in its own words."""
    with contextlib.closing(topology.relay.call(lambda: Rtnetlink(is_strict=True))) as netlink:
        with pytest.raises(OffloadError, match="table does not exist") as caught:
            netlink.dump(RTM_GETROUTE, routes_of_table(socket.AF_INET, 77))
        assert caught.value.__cause__.errno == errno.ENOENT
        assert netlink.dump(RTM_GETROUTE, routes_of_table(socket.AF_INET, 255))


class Meddled:
    """A socket of the kernel's answers; after the first of each list something happens."""

    def __init__(self, opened, meddle):
        self._opened, self._meddle = opened, meddle
        self.asked, self._is_due = 0, False

    def send(self, data):
        self.asked, self._is_due = self.asked + 1, True
        return self._opened.send(data)

    def recv(self, size):
        data = self._opened.recv(size)
        if self._is_due:
            self._is_due = False
            self._meddle()
        return data

    def close(self):
        self._opened.close()


@pytest.fixture
def addresses(topology):
    """Addresses of the relay, more than one datagram holds; and a function that takes one away."""
    command = "addr {} {} dev " + topology.caller.gateway.ifname
    found = [f"10.8.{number // 250}.{1 + number % 250}/32" for number in range(1000)]
    topology.relay.run(["ip", "-batch", "-"], input="\n".join(command.format("add", one) for one in found))

    def delete():
        topology.relay.run(["ip", *command.format("del", found.pop(0)).split()])

    return found, delete


def hosts(netlink):
    found = [read_address(message).host for message in netlink.dump(RTM_GETADDR, ALL_ADDRESSES)]
    return sorted(f"{host}/32" for host in found if host.startswith("10.8."))


def test_list_that_changes_meanwhile_is_asked_for_again(netlink, addresses):
    """The kernel goes through it by number: without the first, another one would be missing."""
    left, delete = addresses
    once = iter([delete])
    netlink._socket = Meddled(netlink._socket, lambda: next(once, lambda: None)())
    assert hosts(netlink) == sorted(left)
    assert netlink._socket.asked == 2


def test_list_that_changes_all_the_time_is_taken_as_it_is(netlink, addresses):
    left, delete = addresses
    netlink._socket = Meddled(netlink._socket, delete)
    found = hosts(netlink)
    assert len(left) - 1 <= len(found) <= len(left) + 1
    assert netlink._socket.asked == LIST_TRIES


def test_what_cannot_be_sent_is_told(netlink):
    for ask in (netlink.dump, lambda kind, body: netlink.ask_each(kind, [body])):
        with pytest.raises(OffloadError, match=r"^netlink: Message too long$") as caught:
            ask(RTM_GETLINK, ALL_LINKS + bytes(1 << 20))
        assert caught.value.__cause__.errno == errno.EMSGSIZE
    assert len(netlink.dump(RTM_GETLINK, ALL_LINKS)) == 3


def test_many_questions_at_once(netlink, topology):
    """The answers come in order, errors among them."""
    hosts = ["10.0.2.2", "198.51.100.1", "10.0.1.2", "10.0.2.1"] * 20
    answers = netlink.ask_each(RTM_GETROUTE, [route_request(host) for host in hosts])
    callee, caller = topology.callee.gateway.ifindex, topology.caller.gateway.ifindex
    told = [str(one) if isinstance(one, OffloadError) else read_answer(one).ifindex for one in answers]
    assert told == [callee, "Network is unreachable", caller, 1] * 20
    assert {one.__cause__.errno for one in answers if isinstance(one, OffloadError)} == {errno.ENETUNREACH}


def test_many_requests_at_once(netlink, topology):
    index = topology.caller.gateway.ifindex
    requests = [use_of_neighbour(number, "10.0.1.7") for number in (index, 99, index)]
    refused = netlink.ask_each(RTM_NEWNEIGH, requests, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
    assert [isinstance(one, OffloadError) for one in refused] == [False, True, False]
    shown = topology.relay.run(["ip", "neigh", "show", "10.0.1.7"]).stdout
    assert "dev to-caller" in shown


def test_no_question_at_all(netlink):
    assert netlink.ask_each(RTM_GETROUTE, []) == []


def test_answers_to_an_earlier_question_are_passed_over(netlink):
    """Those of a list that nobody read to its end."""
    next(netlink.dump_parts(RTM_GETLINK, ALL_LINKS))
    (answer,) = netlink.ask_each(RTM_GETROUTE, [route_request("10.0.2.2")])
    assert read_answer(answer).source == "10.0.2.1"


def test_answers_that_had_no_room_are_told(netlink):
    """No answer comes later than the call returns, so waiting for one would take for ever."""
    netlink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # as small as the kernel allows
    answers = netlink.ask_each(RTM_GETROUTE, [route_request("10.0.2.2")] * 200)
    assert not isinstance(answers[0], OffloadError)
    assert str(answers[-1]) == "the kernel gave no answer, for lack of room"
    assert len(answers) == 200


def test_sequence_numbers_start_anew(netlink):
    netlink._sequence = 0xFFFFFFFE
    for _ in range(2):
        answers = netlink.ask_each(RTM_GETROUTE, [route_request("10.0.2.2")] * 3)
        assert [read_answer(answer).source for answer in answers] == ["10.0.2.1"] * 3
