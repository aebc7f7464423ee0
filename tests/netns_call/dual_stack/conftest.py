"""Phones and a relay with addresses of both families, anew for each test."""

import pytest

from tests.netns import Topology
from tests.netns_call.call import Call
from tests.netns_call.dual_stack.families import EVERYWHERE, addresses


@pytest.fixture
def topology():
    with Topology(ipv6=True) as topology:
        yield topology


@pytest.fixture
def relay(start, way):
    return start(*way.options, *EVERYWHERE)


@pytest.fixture
def call(relay, topology, pair):
    """A call between the families that the test is parametrized with."""
    with Call(relay, topology.caller, topology.callee, **addresses(topology, pair)) as call:
        yield call
