"""Neighbours are confirmed, a few in each call to the kernel, while others get their turn."""

import logging

import pytest

from rtpproxy.offload.confirmations import Confirmations
from tests.offload.relay_network import MAC, Foreground, Later

pytestmark = [pytest.mark.root, pytest.mark.kernel]


@pytest.fixture
def confirmed(topology):
    """Makes what confirms in the relay's namespace, and closes it."""
    made = []

    def make(runner):
        made.append(topology.relay.call(Confirmations, runner))
        return made[-1]

    yield make
    for one in made:
        one.close()


def neighbours(topology, count):
    return [(topology.caller.gateway.ifindex, f"10.0.1.{3 + number}") for number in range(count)]


def states(topology):
    """By address: the state of each neighbour that the kernel knows."""
    lines = topology.relay.run(["ip", "neigh", "show"]).stdout.splitlines()
    return {line.split()[0]: line.split()[-1] for line in lines}


@pytest.mark.vm
def test_the_kernel_asks_for_them(topology, confirmed):
    topology.relay.run(["ip", "neigh", "replace", "10.0.1.3", "lladdr", MAC, "dev", "to-caller", "nud", "stale"])
    confirmed(Foreground()).add(neighbours(topology, 140))
    found = states(topology)
    assert found["10.0.1.3"] in ("DELAY", "PROBE")
    assert {found[host] for _, host in neighbours(topology, 140)[1:]} <= {"INCOMPLETE", "FAILED"}


def test_permanent_ones_stay_so(topology, confirmed):
    """Also where their event is not read yet: the kernel takes an entry that is used for one that is not permanent."""
    for host, state in (("10.0.1.3", "permanent"), ("10.0.1.4", "stale")):
        topology.relay.run(["ip", "neigh", "replace", host, "lladdr", MAC, "dev", "to-caller", "nud", state])
    confirmed(Foreground()).add(neighbours(topology, 2))
    found = states(topology)
    assert found["10.0.1.3"] == "PERMANENT"
    assert found["10.0.1.4"] in ("DELAY", "PROBE")


def test_what_is_added_meanwhile_waits_and_is_confirmed_once(topology, confirmed):
    runner = Later()
    confirmations = confirmed(runner)
    asked = []
    ask, confirmations._ask = confirmations._ask, lambda batch: asked.append(batch) or ask(batch)
    first, *others = neighbours(topology, 4)
    confirmations.add([first])
    for _ in range(3):
        confirmations.add(others)
    assert len(runner.waiting) == 1
    while runner.waiting:
        runner.do_one()
    assert asked == [[first], others]
    assert states(topology).keys() >= {host for _, host in neighbours(topology, 4)}


def test_those_that_the_kernel_refuses_keep_no_others_from_it(topology, confirmed, caplog):
    caplog.set_level(logging.DEBUG, "rtpproxy.offload.confirmations")
    confirmed(Foreground()).add([(99, "10.0.1.7"), *neighbours(topology, 1)])
    (line,) = caplog.messages
    assert line.startswith("cannot confirm neighbour 10.0.1.7: ")
    assert "10.0.1.3" in states(topology)


def test_an_error_does_not_end_it(topology, confirmed):
    runner = Later()
    confirmations = confirmed(runner)
    confirmations.add(neighbours(topology, 1))
    confirmations.add(neighbours(topology, 2))
    _, on_done = runner.waiting.pop()
    with pytest.raises(ZeroDivisionError):
        on_done(lambda: 1 // 0)
    runner.do_one()
    assert "10.0.1.4" in states(topology)
