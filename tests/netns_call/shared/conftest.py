"""One relay, for each way, for all tests of a module: they must neither stop it nor change the network for good."""

import pytest

from tests.netns import Topology
from tests.netns_call.call import WAYS, Call, allow_refusals
from tests.running import RunningRelay


@pytest.fixture(scope="module")
def topology():
    """A caller with two addresses, a callee, and a third host."""
    with Topology() as topology:
        topology.caller.run(["ip", "addr", "add", "10.0.1.3/24", "dev", "caller"])
        allow_refusals(topology.relay)
        topology.stranger = topology.add_host("stranger")
        yield topology


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: way.name)
def way(request):
    return request.param


@pytest.fixture(scope="module")
def relay(way, topology, tmp_path_factory):
    with RunningRelay(tmp_path_factory.mktemp("relay"), *way.options, host=topology.relay) as relay:
        yield relay


@pytest.fixture
def no_calls_left(relay):
    """Ends whatever calls a test leaves."""
    yield
    assert relay.ask("X") == "0"


@pytest.fixture
def name(request):
    """A call-id that no other test has: the log is searched for it."""
    return request.node.name


@pytest.fixture
def call(relay, topology, name, no_calls_left):
    with Call(relay, topology.caller, topology.callee, name) as call:
        yield call
