"""Calls that the kernel forwards, in all pairs of address families, between drivers, with tags."""

import signal

import pytest
from calls import FAMILIES, FORWARDED, Talking, Way, talk_in_kernel
from lab.gateway import EVERYWHERE

from tests.waiting import wait_for


@pytest.fixture(scope="module")
def relay(gateway):
    with gateway.relay(*EVERYWHERE) as running:
        yield running


@pytest.mark.short
def test_native_xdp_on_virtio_and_tc_on_e1000(gateway, relay, facts):
    """As the kernel says, and the log."""
    tiers = {name: gateway.program(name) for name in ("in0", "in1", "in2")}
    facts["tiers"] = {"virtio-net": tiers["in0"], "e1000": tiers["in2"]}
    assert tiers == {"in0": "native XDP", "in1": "native XDP", "in2": "TC"}
    assert "in0: kernel, native XDP" in relay.log
    assert "in2: kernel, TC" in relay.log


@pytest.mark.short
@pytest.mark.parametrize("ipv6", FAMILIES.values(), ids=FAMILIES)
def test_native_xdp(gateway, relay, ipv6):
    talk_in_kernel(gateway, relay, Way(ipv6=ipv6))


@pytest.mark.short
def test_the_controller_stands_still(gateway, relay):
    """While its process is stopped, nothing is lost: it has no part in what the kernel forwards."""
    pid = gateway.relay_pid()
    with Talking(gateway, Way(), "--expect-kernel") as talking:
        talking.wait_in_kernel(relay)
        before = relay.counters()
        gateway.guest.shell(f"kill -{signal.SIGSTOP.value} {pid}")
        assert relay.ask_once("V") == ""
        gateway.wait_for_frames("in0", 300)
        gateway.guest.shell(f"kill -{signal.SIGCONT.value} {pid}")
        wait_for(
            lambda: relay.counters()[FORWARDED] >= before[FORWARDED] + 300,
            gateway.deadline_s(20),
            "frames that were forwarded meanwhile",
        )


@pytest.mark.parametrize("ipv6", FAMILIES.values(), ids=FAMILIES)
def test_tc_where_the_driver_has_no_xdp(gateway, relay, ipv6):
    talk_in_kernel(gateway, relay, Way("in2", "in2", ipv6=ipv6), tier="TC")


@pytest.mark.parametrize("ipv6", FAMILIES.values(), ids=FAMILIES)
def test_vlan_and_qinq_devices(gateway, relay, kernel_has_vlans, ipv6):
    """XDP of the interface below sees the tags, takes them off, and puts on those of the other: one tag, or two."""
    talk_in_kernel(gateway, relay, Way("in1.100", "in1.200.100", ipv6=ipv6), calls=2)


def test_phones_behind_nat_that_move(gateway, relay):
    """They signal private addresses, and get another port in the middle of the call."""
    talk_in_kernel(gateway, relay, Way(), "--nat", "--rebind=5", minimum_s=12.0)
