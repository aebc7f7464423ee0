"""What a killed relay left on interfaces, beside programs that are not its own."""

import logging
import os

import pytest

from rtpproxy.config import OffloadMode
from rtpproxy.errors import OffloadError
from rtpproxy.offload.entry import Tier
from rtpproxy.offload.leftovers import detach
from rtpproxy.offload.syscall import program_id
from tests.conftest import TC_NAME, XDP_NAME
from tests.offload.relay_network import RelayNetwork
from tests.offload.unprivileged import NOBODY
from tests.plain_programs import load_plain_xdp

pytestmark = [pytest.mark.root, pytest.mark.kernel]


@pytest.fixture
def index(topology):
    """Number of the relay's interface to the caller."""
    return topology.caller.gateway.ifindex


def ids(loaded):
    return {program_id(fd) for fd in (loaded.xdp_fd, loaded.tc_fd, loaded.tc_behind_xdp_fd)}


def attach_plain(network, index, name):
    """Attach another program, of whatever name, by whoever it may be. Returns its ID."""
    fd = load_plain_xdp(name)
    network.interfaces._set_program(index, fd, 1 << 2)  # XDP_FLAGS_DRV_MODE
    number = program_id(fd)
    os.close(fd)
    return number


def cleared(caplog):
    return [message.partition(": detached")[0] for message in caplog.messages if "detached what a killed" in message]


@pytest.mark.vm
def test_xdp_is_detached_by_id_whatever_its_name(topology, network, loaded, index, caplog):
    """Of two programs with the same name, one is the killed relay's, the other belongs to one that lives."""
    left = attach_plain(network, index, XDP_NAME)
    attach_plain(network, topology.callee.gateway.ifindex, XDP_NAME)
    assert topology.relay.call(detach, {left, 1 << 30})
    assert cleared(caplog) == ["to-caller"]
    assert list(network.xdp_programs()) == ["to-callee"]
    network.interfaces.links.reload()
    assert network.interfaces.attach(index).tier is Tier.XDP


def test_nothing_of_others_is_detached(topology, network, loaded, index, caplog):
    network.interfaces.attach(index)
    attach_plain(network, topology.callee.gateway.ifindex, "somebody_else")
    before = network.xdp_programs()
    for programs in (set(), {1 << 30}, {1, 2, 3}):
        assert topology.relay.call(detach, programs)
    assert network.xdp_programs() == before
    assert caplog.messages == []


def add_foreign_filter(network):
    command = "filter add dev to-caller egress protocol ip prio 7 bpf bytecode"
    network.host.run(["tc", *command.split(), "1,6 0 0 0,"])


@pytest.mark.vm
@pytest.mark.parametrize("is_qdisc_left", [False, True])
def test_tc_is_detached(tc_network, topology, loaded, index, is_qdisc_left, caplog):
    tc_network.interfaces.attach(index)
    if is_qdisc_left:
        add_foreign_filter(tc_network)
    assert topology.relay.call(detach, ids(loaded))
    assert cleared(caplog) == ["to-caller"]
    assert tc_network.tc_programs() == ({"to-caller": []} if is_qdisc_left else {})
    successor = RelayNetwork(topology.relay, loaded, OffloadMode.TC)
    assert successor.interfaces.attach(index).tier is Tier.TC
    successor.close()
    assert successor.tc_programs() == ({"to-caller": []} if is_qdisc_left else {})


def test_tc_filter_of_another_program_with_that_name_stays(tc_network, topology, index, caplog):
    tc_network.interfaces.attach(index)
    assert topology.relay.call(detach, {1 << 30})
    assert tc_network.tc_programs() == {"to-caller": [TC_NAME]}
    assert caplog.messages == []


def test_tc_behind_xdp_is_detached_once(network, topology, loaded, index, caplog):
    network.interfaces.attach(index)
    assert network.interfaces.back_up_xdp()
    assert topology.relay.call(detach, ids(loaded))
    assert cleared(caplog) == ["to-caller"]
    assert (network.xdp_programs(), network.tc_programs()) == ({}, {})


def test_ingress_qdisc_stays(tc_network, topology, loaded, index):
    """It is not ours."""
    tc_network.tc("qdisc add dev to-caller ingress")
    tc_network.interfaces.attach(index)
    assert topology.relay.call(detach, ids(loaded))
    assert tc_network.tc("filter show dev to-caller ingress") == ""
    assert "ingress" in tc_network.tc("qdisc show dev to-caller")


def test_what_may_not_be_detached_is_said(network, tc_network, topology, loaded, index, caplog):
    """An ordinary user sees what eats the packets of calls, and what helps."""
    network.interfaces.attach(index)
    tc_network.interfaces.attach(topology.callee.gateway.ifindex)

    def as_nobody():
        os.seteuid(NOBODY)
        try:
            return detach(ids(loaded))
        finally:
            os.seteuid(0)

    assert not topology.relay.call(as_nobody)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    start = "a program that a killed predecessor left stays, and takes packets of calls: "
    xdp = "to-caller, XDP: Operation not permitted; `ip link set dev to-caller xdp off` detaches it"
    assert caplog.messages[0] == start + xdp
    assert caplog.messages[1].startswith(f"{start}TC: Operation not permitted")
    assert (list(network.xdp_programs()), list(tc_network.tc_programs())) == (["to-caller"], ["to-callee"])


def test_nothing_is_asked_for_without_need(monkeypatch):
    """Bound relays of ordinary users need no netlink."""

    def refuse():
        raise OffloadError("asked")

    monkeypatch.setattr("rtpproxy.offload.leftovers.Rtnetlink", refuse)
    assert detach(set())
    with pytest.raises(OffloadError, match="asked"):
        detach({1})
