"""Transmit queues, as the drivers in a namespace tell them."""

import os
import resource

import pytest

from rtpproxy.network.queues import TransmitQueues, transmit_queues
from tests.netns import tap

pytestmark = pytest.mark.root


def test_separate_queues(topology):
    queues = topology.relay.call(transmit_queues, "to-caller")
    assert (queues.count, queues.kind) == (1, "tx")
    assert queues.most >= 1
    topology.relay.run(["ethtool", "-L", "to-caller", "tx", str(queues.most)])
    assert topology.relay.call(transmit_queues, "to-caller").count == queues.most


def test_queues_for_both_directions(topology):
    with tap(topology.relay, "tap0"):
        assert topology.relay.call(transmit_queues, "tap0") == TransmitQueues(1, 256, "combined")


def test_interfaces_that_do_not_tell(topology):
    assert topology.relay.call(transmit_queues, "lo") is None
    assert topology.relay.call(transmit_queues, "eth7") is None


def test_when_no_file_can_be_opened(topology):
    """It is asked every second, by a relay that may have no descriptor to spare for a moment."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def ask():
        first_free = os.open(os.devnull, os.O_RDONLY)
        os.close(first_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, before[1]))
        try:
            return transmit_queues("to-caller")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert topology.relay.call(ask) is None
