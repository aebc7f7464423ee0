"""Namespaces for one test, and the kernel tier's parts in the relay's."""

import pytest

from rtpproxy.config import OffloadMode
from tests.bpf.data_plane import DataPlane
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
    network = RelayNetwork(topology.relay, loaded)
    yield network
    network.close()


@pytest.fixture
def tc_network(topology, loaded):
    """The same where only TC may be used."""
    network = RelayNetwork(topology.relay, loaded, OffloadMode.TC)
    yield network
    network.close()


@pytest.fixture
def callee_link(topology, told_senders):
    """The relay's interface to the callee."""
    return topology.callee.gateway


@pytest.fixture
def plane(loaded, tables):
    """The loaded XDP program, and ports of this test's own."""
    with DataPlane(loaded, tables) as plane:
        yield plane
