"""Namespaces for one test, and the kernel tier's parts in the relay's."""

import pytest

from tests.conftest import XDP_NAME
from tests.netns import Topology
from tests.offload.relay_network import RelayNetwork


@pytest.fixture
def topology():
    """caller - relay - callee."""
    with Topology() as topology:
        yield topology


@pytest.fixture
def network(topology, loaded):
    """Interfaces and next hops in the relay's namespace; nothing is attached yet."""
    network = RelayNetwork(topology.relay, loaded.xdp_fd, XDP_NAME)
    yield network
    network.close()
