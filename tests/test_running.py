"""The phones of the tests."""

from pathlib import Path

import pytest

from tests.netns import Topology
from tests.running import PhoneSocket


@pytest.mark.kernel
def test_a_phone_waits_while_its_next_hop_is_looked_for():
    """Packets that wait for an answer of the next hop fill the socket; a test that polls is as fast as that."""
    with Topology(ipv6=True) as topology:
        phone = topology.caller
        retransmission = Path(f"/proc/sys/net/ipv6/neigh/{phone.ifname}/retrans_time_ms")
        phone.call(retransmission.write_text, "100")  # the kernel gives up after three, and drops what waited
        with PhoneSocket(phone, phone.ip6, 4000) as port:
            for _ in range(600):
                port.send(b"hello", (phone.ip6[:-1] + "77", 5000))
