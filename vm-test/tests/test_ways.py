"""Ways to run the relay that need less of the kernel."""

import pytest
from calls import FAMILIES, FORWARDED, Talking, Way, talk_in_kernel
from lab.gateway import EVERYWHERE


def test_tc_on_all(gateway):
    with gateway.relay("--offload", "tc", *EVERYWHERE) as relay:
        assert {gateway.program(name) for name in ("in0", "in1", "in2")} == {"TC"}
        for ipv6 in FAMILIES.values():
            talk_in_kernel(gateway, relay, Way(ipv6=ipv6), tier="TC", calls=2)


@pytest.mark.parametrize("options", [("--offload", "off"), ("--ports", "bound")], ids=["off", "bound"])
def test_userspace(gateway, options):
    with gateway.relay(*options, *EVERYWHERE) as relay:
        assert {gateway.program(name) for name in ("in0", "in1", "in2")} == {""}
        for ipv6 in [FAMILIES[pair] for pair in ("4-6", "6-4")]:
            with Talking(gateway, Way(ipv6=ipv6), f"--late-ms={gateway.deadline_s(100)}", calls=1, minimum_s=3.0):
                pass
        counters = relay.counters()
    assert counters["packets transmitted"] > 0
    assert counters.get(FORWARDED, 0) == 0
