"""Which program forwards on which driver, as the kernel of the gateway says."""

import pytest
from lab.gateway import EVERYWHERE


@pytest.mark.short
def test_native_xdp_on_virtio_and_tc_on_e1000(gateway, facts):
    with gateway.relay(*EVERYWHERE) as relay:
        log = relay.log
        tiers = {name: gateway.program(name) for name in ("in0", "in1", "in2")}
    facts["tiers"] = {"virtio-net": tiers["in0"], "e1000": tiers["in2"]}
    assert tiers == {"in0": "native XDP", "in1": "native XDP", "in2": "TC"}
    assert "in0: kernel, native XDP" in log
    assert "in2: kernel, TC" in log
    assert {gateway.program(name) for name in ("in0", "in1", "in2")} == {""}
