"""What happens to a gateway in its life: idle calls, restarts, cables, interfaces that go and come."""

import pytest
from calls import Way, talk_in_kernel
from lab.gateway import EVERYWHERE, USER
from lab.machine import NICS

from tests.waiting import wait_for

RECORDINGS = "/var/tmp/recordings"
CALLEE_SIDE, TC_SIDE = NICS[1], NICS[2]


def test_idle_calls_end_and_busy_ones_do_not(gateway):
    """What the kernel forwards counts as life; a call without media ends after the time of -T."""
    with gateway.relay("-T", "3", "-W", "3", *EVERYWHERE) as relay:
        talk_in_kernel(gateway, relay, Way(), minimum_s=7.0)
        relay.ask("U idle 10.1.0.10 41000 from")
        relay.ask("L idle 10.2.0.10 51000 from to")
        assert relay.counters()["active sessions"] == 1
        wait_for(lambda: relay.counters()["active sessions"] == 0, gateway.deadline_s(20), "the end of an idle call")


def test_recorded_calls_stay_in_the_kernel(gateway):
    """Each packet is in a file, and userspace sees none of them."""
    gateway.guest.shell(f"install -d -o {USER} {RECORDINGS}")
    with gateway.relay("-r", RECORDINGS, "-P", "-a", *EVERYWHERE) as relay:
        result = talk_in_kernel(gateway, relay, Way(ipv6=(False, True)), calls=2)
        wait_for(lambda: not relay.counters()["recording files_open"], gateway.deadline_s(20), "the end of the files")
        counters = relay.counters()
    received = sum(total["received"] for total in result["totals"])
    assert (counters["recording packets_recorded"], counters["recording packets_lost"]) == (received, 0)
    names = gateway.guest.shell(f"ls {RECORDINGS}").split()
    assert [name.rpartition(".")[2] for name in names] == ["pcap"] * 2, names


def test_restart_and_crash(gateway):
    """The next relay clears what a killed one left on the interfaces, and forwards as well."""
    with gateway.relay(*EVERYWHERE) as relay:
        talk_in_kernel(gateway, relay, Way(), calls=2)
    assert {gateway.program(nic.name) for nic in NICS} == {""}
    with gateway.relay(*EVERYWHERE):
        gateway.guest.shell(f"kill -9 {gateway.relay_pid()}")
    assert gateway.program("in0") == "native XDP"
    with gateway.relay(*EVERYWHERE) as relay:
        assert gateway.program("in0") == "native XDP"
        talk_in_kernel(gateway, relay, Way(ipv6=(False, True)), calls=2)
    assert gateway.program("in0") == ""


def test_cable_is_pulled_and_put_back(gateway):
    with gateway.relay(*EVERYWHERE) as relay:
        talk_in_kernel(gateway, relay, Way(), calls=2)
        gateway.machine.set_carrier(CALLEE_SIDE, up=False)
        gateway.wait_for_carrier(CALLEE_SIDE, up=False)
        gateway.machine.set_carrier(CALLEE_SIDE, up=True)
        gateway.wait_for_carrier(CALLEE_SIDE, up=True)
        talk_in_kernel(gateway, relay, Way(), calls=2)


def test_interface_is_unplugged_and_plugged_in_again(gateway):
    """Another interface of the same name: it gets a program of its own, and the kernel forwards by it."""
    with gateway.relay(*EVERYWHERE) as relay:
        assert gateway.machine.unplug(TC_SIDE, gateway.deadline_s(10)), "the guest keeps the interface"
        gateway.machine.plug(TC_SIDE)
        gateway.wait_for_addresses(TC_SIDE.name)
        wait_for(lambda: gateway.program("in2") == "TC", gateway.deadline_s(30), "a program on it")
        talk_in_kernel(gateway, relay, Way("in2", "in2"), calls=2, tier="TC")


def test_interface_is_plugged_in_while_the_relay_runs(gateway):
    """It was unplugged before: with our program on it, the kernel never lets go of it (docs/limits.md)."""
    assert gateway.machine.unplug(CALLEE_SIDE, gateway.deadline_s(10)), "the guest keeps the interface"
    with gateway.relay(*EVERYWHERE) as relay:
        gateway.machine.plug(CALLEE_SIDE)
        gateway.wait_for_addresses(CALLEE_SIDE.name)
        wait_for(lambda: gateway.program("in1") == "native XDP", gateway.deadline_s(30), "a program on it")
        talk_in_kernel(gateway, relay, Way(), calls=2)


def test_bridge_between_networks_of_one_family_each(gateway):
    """An IPv4-only network and an IPv6-only one, and a relay that bridges them."""
    gateway.guest.shell("ip addr del fd00:1::1/64 dev in0; ip addr del 10.2.0.1/24 dev in1")
    try:
        with gateway.relay("-l", "10.1.0.1", "-6", "/fd00:2::1") as relay:
            way = Way(ipv6=(False, True))
            talk_in_kernel(gateway, relay, way, "--offer-modifiers=ie", "--answer-modifiers=ei")
    finally:
        gateway.guest.shell("networkctl reconfigure in0 in1")
        for nic in NICS[:2]:
            gateway.wait_for_addresses(nic.name)


@pytest.mark.last
def test_reboot(gateway):
    """A unit of the service manager, as docs/operations.md has it, serves again without anybody's help."""
    with gateway.installed(*EVERYWHERE) as relay:
        gateway.reboot()
        gateway.wait_until_served(relay)
        assert gateway.program("in0") == "native XDP"
        talk_in_kernel(gateway, relay, Way(ipv6=(True, True)), calls=2)
