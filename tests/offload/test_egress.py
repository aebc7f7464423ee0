"""Which interfaces can send redirected frames, as that changes in a namespace."""

import pytest

from rtpproxy.offload.egress import Egress

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


@pytest.mark.vm
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


def test_driver_that_goes_on_refusing_frames(told_senders, topology, interfaces, index, caplog):
    """The kernel says that it can send, and the driver does not."""
    refused = {index: 0}
    egress = topology.relay.call(lambda: Egress(interfaces.links, lambda _: True, refused.__getitem__))
    interfaces.attach(index)
    assert egress.can_send(index)
    for count, changed in ((10, []), (20, [index]), (20, [])):
        refused[index] = count
        assert egress.check() == changed
    assert not egress.can_send(index)
    assert len([line for line in caplog.messages if "to-caller: its driver refuses frames" in line]) == 1
    egress.forget(index)
    assert egress.can_send(index)
    egress.close()
