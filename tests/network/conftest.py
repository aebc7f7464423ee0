"""Namespaces for one test, and a netlink socket in the relay's."""

import pytest

from rtpproxy.network.netlink import Rtnetlink
from tests.netns import Topology


@pytest.fixture
def topology():
    """caller - relay - callee."""
    with Topology() as topology:
        yield topology


@pytest.fixture
def netlink(topology):
    netlink = topology.relay.call(Rtnetlink)
    yield netlink
    netlink.close()
