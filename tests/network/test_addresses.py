"""The host's addresses, and the kernel's copy that follows them."""

import logging

import pytest

from rtpproxy.errors import OffloadError
from rtpproxy.network.addresses import HostAddresses, addresses_of_host


class FakeCopy:
    """The copy, with limited room."""

    def __init__(self, room=10):
        self.room = room
        self.hosts = set()

    def mark(self, host, is_ours):
        if is_ours:
            if len(self.hosts) == self.room:
                raise OffloadError(f"{host}: no room")
            self.hosts.add(host)
        else:
            self.hosts.remove(host)


def test_addresses_come_and_go():
    copy = FakeCopy()
    addresses = HostAddresses(copy.mark)
    for hosts in ({"10.0.1.1", "10.0.2.1"}, {"10.0.2.1"}, {"10.0.2.1", "10.0.3.1"}, set(), {"10.0.1.1"}):
        addresses.follow(hosts)
        assert copy.hosts == hosts


def test_no_room(caplog):
    """One warning. When room is made, addresses that had none get in."""
    caplog.set_level(logging.WARNING)
    copy = FakeCopy(room=2)
    addresses = HostAddresses(copy.mark)
    hosts = {f"10.0.0.{number}" for number in range(1, 5)}
    for _ in range(2):
        addresses.follow(hosts)
        assert len(copy.hosts) == 2
        assert copy.hosts < hosts
    (message,) = caplog.messages
    assert message.endswith(": no room; floods at such an address are not stopped in the kernel")
    left = hosts - copy.hosts
    addresses.follow(left)
    assert copy.hosts == left


@pytest.mark.root
@pytest.mark.kernel
def test_addresses_of_the_host(netlink, topology):
    caller, callee = topology.caller.gateway.ifindex, topology.callee.gateway.ifindex
    for command in ("addr add 10.0.1.100/32 dev to-caller", "addr add 192.0.2.1 peer 192.0.2.2 dev to-callee"):
        topology.relay.run(["ip", *command.split()])
    assert sorted(addresses_of_host(netlink)) == sorted(
        [("127.0.0.1", 1), ("10.0.1.1", caller), ("10.0.1.100", caller), ("10.0.2.1", callee), ("192.0.2.1", callee)]
    )
