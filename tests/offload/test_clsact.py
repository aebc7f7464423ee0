"""Our filter on interfaces, beside qdiscs and filters that are not ours."""

import pytest

from rtpproxy.offload.entry import Tier
from tests.conftest import TC_NAME

pytestmark = [pytest.mark.root, pytest.mark.kernel]


@pytest.fixture
def index(topology):
    """Number of the relay's interface to the caller."""
    return topology.caller.gateway.ifindex


def add_foreign_filter(network, direction, priority=7):
    """A filter that matches nothing."""
    command = f"filter add dev to-caller {direction} protocol ip prio {priority} bpf bytecode"
    network.host.run(["tc", *command.split(), "1,6 0 0 0,"])


def has_foreign_filter(network, direction):
    return "bytecode" in network.tc(f"filter show dev to-caller {direction}")


@pytest.mark.vm
def test_qdisc_and_filters_of_others_stay(tc_network, index):
    ours = {"to-caller": [TC_NAME]}
    tc_network.tc("qdisc add dev to-caller clsact")
    tc_network.interfaces.attach(index)
    assert tc_network.tc_programs() == ours
    tc_network.interfaces.detach_all()
    assert tc_network.tc_programs() == {"to-caller": []}
    for direction in ("ingress", "egress"):
        tc_network.interfaces.attach(index)
        add_foreign_filter(tc_network, direction)
        tc_network.interfaces.detach_all()
        assert has_foreign_filter(tc_network, direction)


def test_filters_that_others_added_to_our_qdisc_stay(tc_network, index):
    tc_network.interfaces.attach(index)
    add_foreign_filter(tc_network, "egress")
    tc_network.interfaces.detach_all()
    assert has_foreign_filter(tc_network, "egress")
    assert tc_network.tc("filter show dev to-caller ingress") == ""


@pytest.mark.vm
def test_priority_that_another_filter_has(tc_network, index):
    tc_network.tc("qdisc add dev to-caller clsact")
    add_foreign_filter(tc_network, "ingress", priority=100)
    report = tc_network.interfaces.attach(index)
    assert report.tier is Tier.USERSPACE
    assert report.reason.startswith("--offload tc; no TC: ")
    tc_network.interfaces.detach_all()
    assert has_foreign_filter(tc_network, "ingress")


def test_filter_that_somebody_took_off(tc_network, index, caplog):
    tc_network.interfaces.attach(index)
    tc_network.tc("filter del dev to-caller ingress")
    tc_network.interfaces.detach_all()
    assert (tc_network.tc_programs(), caplog.messages) == ({}, [])
