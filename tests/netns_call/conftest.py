"""Fixtures of end-to-end tests. A topology takes 0.1 s and a relay 1 s, so most tests have their own."""

import pytest

from tests.netns import Topology
from tests.netns_call.call import WAYS, Call, allow_refusals
from tests.running import RunningRelay


def pytest_collection_modifyitems(items):
    for item in items:
        if "netns_call" in item.path.parts:
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.kernel)


@pytest.fixture
def topology():
    with Topology() as topology:
        allow_refusals(topology.relay)
        yield topology


@pytest.fixture(params=WAYS, ids=lambda way: way.name)
def way(request):
    return request.param


@pytest.fixture
def start(topology, tmp_path):
    """Starts a relay with given options, in the relay's namespace; it ends with the test."""
    relays = []

    def start(*options, name="rtpproxy", host=None):
        relay = RunningRelay(tmp_path, *options, host=host or topology.relay, name=name)
        relays.append(relay)
        relay.start()
        return relay

    yield start
    for relay in reversed(relays):
        relay.__exit__()


@pytest.fixture
def relay(start, way):
    return start(*way.options)


@pytest.fixture
def call(relay, topology):
    with Call(relay, topology.caller, topology.callee) as call:
        yield call
