"""Calls between the two interfaces of bridge mode (protocol.md 7.3)."""

import pytest

from tests.netns_call.call import DEADLINE_S, KERNEL, Call, kernel_only, paused
from tests.running import rtp
from tests.waiting import wait_for

BRIDGE = ("-l", "10.0.1.1/10.0.2.1", "-b", "-m", "20000", "-M", "20100")


class BridgedCall(Call):
    """The caller is on the internal side, the callee on the external one."""

    def __init__(self, *arguments, modifiers="ie", **options):
        self.modifiers = modifiers
        super().__init__(*arguments, **options)

    def update(self, host, port):
        return self._port(f"U{self.modifiers} {self.name} {host} {port} f", "10.0.2.1")

    def lookup(self, host, port):
        return self._port(f"L {self.name} {host} {port} f t", "10.0.1.1")

    def _port(self, command, shown):
        port, host = self.relay.ask(command).split()
        assert host == shown
        return int(port)


@pytest.fixture
def relay(start, way):
    return start(*way.options, *BRIDGE)


def test_each_side_has_ports_of_its_own(start, topology, way):
    relay = start(*way.options, *BRIDGE, "-M", "20001")
    with BridgedCall(relay, topology.caller, topology.callee) as call:
        assert call.ports == [20000, 20001, 20000, 20001], "there is one pair, on each side"
        call.establish(way)
        call.cross(rtp(2))
        counters = call.quote()
    assert (counters["npkts_ina"], counters["npkts_ino"], counters["nrelayed"]) == (2, 2, 4)


@kernel_only
def test_kernel_forwards_from_the_first_packet(relay, topology):
    """Bridge mode learns no addresses, so nothing has to be heard first but from the neighbours."""
    with BridgedCall(relay, topology.caller, topology.callee) as call:
        call.establish(KERNEL)
        with paused(relay):
            for number in range(2, 12):
                call.cross(rtp(number))


@pytest.mark.parametrize(("modifiers", "heard"), [("ie", 0), ("ies", 1)])
def test_addresses_are_learned_if_asked_for(relay, topology, modifiers, heard):
    """By default another host than the signalled one is not heard."""
    with BridgedCall(
        *(relay, topology.caller, topology.callee), modifiers=modifiers, caller_says=("10.0.1.77", 4000)
    ) as call:
        call.caller.send(rtp(1))
        if heard:
            assert call.callee.rtp.expect() == [(rtp(1), call.callee.to)]
        call.callee.send(rtp(2))
        wait_for(lambda: call.quote()["npkts_ino"] == 1, DEADLINE_S, "the callee's packet")
        assert call.quote()["npkts_ina"] == heard
        if heard:
            assert call.caller.rtp.expect() == [(rtp(2), call.caller.to)]
