"""The addresses of a host, from the kernel, and how they are followed."""

import asyncio
from ipaddress import ip_network

import pytest

from rtpproxy.network.background import Background
from rtpproxy.network.host_networks import HostNetworks, HostNetworksFollower, networks_of_host
from rtpproxy.network.netlink import Rtnetlink
from tests.netns import Topology
from tests.netns_call.call import ip
from tests.waiting import DEADLINE_S

pytestmark = [pytest.mark.root, pytest.mark.kernel]


def networks(*texts):
    return frozenset(map(ip_network, texts))


LOOPBACK = ("127.0.0.0/8", "127.0.0.1")
IPV4 = HostNetworks(
    networks(*LOOPBACK, "10.0.1.1", "10.0.2.1"), networks("10.0.1.255", "10.0.2.255", "127.255.255.255")
)


@pytest.mark.parametrize("is_strict", [True, False])
def test_addresses_prefixes_and_broadcasts(topology, is_strict):
    netlink = topology.relay.call(lambda: Rtnetlink(is_strict=is_strict))
    try:
        assert networks_of_host(netlink) == IPV4
        ip(
            topology.relay,
            "addr add 10.0.1.100/32 dev to-caller",
            "addr add 192.0.2.1 peer 192.0.2.2 dev to-callee",
            "route add local 198.51.100.0/24 dev lo",
            "route add 203.0.113.0/24 via 10.0.1.2",
            "route add blackhole 192.88.99.0/24",
        )
        more = networks("10.0.1.100", "192.0.2.1", "198.51.100.0/24")
        assert networks_of_host(netlink) == HostNetworks(IPV4.local | more, IPV4.broadcast)
    finally:
        netlink.close()


def test_ipv6():
    with Topology(ipv6=True) as topology:
        netlink = topology.relay.call(lambda: Rtnetlink(is_strict=True))
        try:
            local = networks_of_host(netlink).local
        finally:
            netlink.close()
        assert local >= networks("::1", "fd00:0:1::1", "fd00:0:2::1", "fe80::ff:fe00:101", *LOOPBACK)
        assert not any(ip_network("fd00:0:1::2") == one or one.prefixlen == 0 for one in local)


def test_they_are_followed(topology):
    async def follow():
        told: asyncio.Queue[HostNetworks] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        background = Background(loop)
        follower = topology.relay.call(lambda: HostNetworksFollower(loop, background, told.put_nowait))
        try:
            follower.start()
            assert await told.get() == IPV4
            for command, expected in (
                ("addr add 192.0.2.7/24 brd + dev to-caller", ("192.0.2.7",)),
                ("route add local 198.51.100.0/24 dev lo", ("192.0.2.7", "198.51.100.0/24")),
                ("addr del 192.0.2.7/24 dev to-caller", ("198.51.100.0/24",)),
                ("route del local 198.51.100.0/24 dev lo", ()),
            ):
                ip(topology.relay, command)
                async with asyncio.timeout(DEADLINE_S):
                    while (await told.get()).local != IPV4.local | networks(*expected):
                        pass
        finally:
            background.close()
            follower.close()

    asyncio.run(follow())


def test_a_burst_of_events_is_one_question(topology):
    """Events that come before the answer are not asked about again, not even if some are lost."""

    async def follow():
        told: asyncio.Queue[HostNetworks] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        background = Background(loop)
        follower = topology.relay.call(lambda: HostNetworksFollower(loop, background, told.put_nowait))
        try:
            follower.start()
            batch = "\n".join(f"addr add 192.0.2.{n}/32 dev to-caller" for n in range(1, 255))
            topology.relay.run(["ip", "-batch", "-"], input=batch)
            async with asyncio.timeout(DEADLINE_S):
                while len((await told.get()).local) != len(IPV4.local) + 254:
                    pass
            assert told.empty()
        finally:
            background.close()
            follower.close()

    asyncio.run(follow())
