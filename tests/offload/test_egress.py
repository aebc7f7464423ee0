"""Which interfaces can send redirected frames, as that changes in a namespace."""

import pytest

pytestmark = [pytest.mark.root, pytest.mark.kernel]


@pytest.fixture
def interfaces(network):
    return network.interfaces


@pytest.fixture
def index(topology):
    """The relay's interface to the caller."""
    return topology.caller.gateway.ifindex


def set_gro(phone, value):
    phone.run(["ethtool", "-K", phone.ifname, "gro", value])


def test_sender(told_senders, network, topology, interfaces, index):
    assert not interfaces.egress.can_send(index)
    interfaces.egress.check()
    interfaces.attach(index)
    assert interfaces.egress.check() == [index]
    assert interfaces.egress.can_send(index)
    assert interfaces.egress.check() == []
    set_gro(topology.caller, "off")
    assert interfaces.egress.check() == [index]
    assert not interfaces.egress.can_send(index)
    set_gro(topology.caller, "on")
    assert interfaces.egress.check() == [index]
    assert interfaces.egress.can_send(index)


def test_sender_that_vanished(told_senders, network, interfaces, index):
    interfaces.attach(index)
    assert interfaces.egress.can_send(index)
    network.ip("link del to-caller")
    assert interfaces.egress.check() == [index]
    network.follow(lambda: interfaces.links.get(index) is None, "the link to be gone")
    assert not interfaces.egress.can_send(index)
