"""What the kernel tier does that no network in a namespace can show; the rest is in tests/netns_call.

And that nothing of what it does keeps packets and commands waiting: a turn of the event loop is bounded by the
processor time of its thread, which does not grow on a busy machine, with ten times the room that it needs.
"""

import asyncio
import contextlib
import subprocess
import time

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.config import Config, ListenAddress
from rtpproxy.network.background import Background
from rtpproxy.offload.entry import ForwardingEntry
from rtpproxy.offload.programs import Programs
from rtpproxy.offload.syscall import map_write, possible_cpus
from rtpproxy.offload.tier import KernelTier
from tests.network.test_events import limit_buffer
from tests.offload.relay_network import MAC, Foreground
from tests.offload.test_forwarder import FakeOwner
from tests.running import own_namespace
from tests.waiting import DEADLINE_S

pytestmark = [pytest.mark.root, pytest.mark.kernel]

ANY = ListenAddress()
PEERS = 6000
ROUTES = 10_000
TURN_S = 0.03
"""Processor time that no turn may take."""
GATEWAY = "10.0.0.9"


@pytest.fixture(scope="module")
def programs():
    """The programs and maps of a relay, in a namespace of its own."""
    config = Config(listen=(ANY,), lowest_port=30000, highest_port=60001)
    with own_namespace(), contextlib.closing(Programs(config)) as programs:
        yield programs, config


def ip(*commands):
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)


def test_lack_of_headroom_is_told_once(programs, caplog):
    """A driver's, which no test can have; the counter stands for it."""
    programs, config = programs
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        tier = KernelTier(config, programs, lambda: None, loop, Foreground())
        tier.start()
        layout, others = programs._loaded.layouts["verdicts"], possible_cpus() - 1
        key = layout.key.pack_number(0)
        for count in (0, 1, 1, 2):
            counts = layout.value.pack({"up_no_headroom": count}) + others * layout.value.pack({})
            map_write(programs._loaded.map_fds["verdicts"], key, counts)
            tier.tick()
            told = [message for message in caplog.messages if "leaves no room before its frames" in message]
            assert len(told) == min(count, 1)
        tier.close()


# Turns of the event loop


class Crowd:
    """A kernel tier with an entry for each of many peers, all neighbours on one link."""

    def __init__(self, programs, config, loop):
        self._rows = programs.tables.next_hops
        self._loop = loop
        self.hosts = [f"10.1.{number >> 8}.{number & 255}" for number in range(1, PEERS + 1)]
        self._background = Background(loop)
        self.tier = KernelTier(config, programs, lambda: None, loop, self._background)

    def start(self):
        self.tier.start()
        for port, host in enumerate(self.hosts, 30000):
            peer = Endpoint(host, 5004)
            entry = ForwardingEntry(port, "10.0.0.1", peer, False, True, "", port, peer, 0xB8)
            self.tier.forwarder.apply(FakeOwner("call"), {entry.key: entry}, self._loop.time())

    def close(self):
        for port, _ in enumerate(self.hosts, 30000):
            self.tier.forwarder.withdraw(port, "the test is over", self._loop.time())
        self._background.close()
        self.tier.close()

    def count(self, mtu):
        """How many next hops have that MTU; 0 is that of hops that are not usable."""
        return int((self._rows._rows.column("mtu") == mtu).sum())

    def way(self, host):
        """How packets leave for a peer, in words."""
        return self.tier._next_hops.current(host, "").description

    async def longest_turn(self, is_over):
        """Let the event loop run until a condition holds. Returns the most processor time of a turn, in seconds."""
        longest, end = 0.0, time.monotonic() + DEADLINE_S
        while not is_over():
            assert time.monotonic() < end
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)
        return longest


@pytest.fixture
def crowd_does(programs):
    """Runs a coroutine function with a crowd on a link `d0`, and another link `e0`."""
    ip("link add d0 type veth peer d1", "link add e0 type veth peer e1")
    ip(*(f"link set {name} up" for name in ("d0", "d1", "e0", "e1")))
    ip("addr add 10.0.0.1/8 dev d0", "addr add 192.0.2.1/24 dev e0")

    async def main(do):
        crowd = Crowd(*programs, asyncio.get_running_loop())
        ip(*(f"neigh replace {host} lladdr {MAC} dev d0 nud permanent" for host in crowd.hosts))
        crowd.start()
        try:
            assert await crowd.longest_turn(lambda: crowd.count(1500) == PEERS) >= 0
            await do(crowd)
        finally:
            crowd.close()

    yield lambda do: asyncio.run(main(do))
    ip("link del d0", "link del e0")


def test_thousands_of_routes_hold_nobody_up(crowd_does):
    """And the one that matters is followed, though most events are lost."""

    async def do(crowd):
        routes = [f"20.0.{number >> 8}.{number & 255}/32 via {GATEWAY}" for number in range(ROUTES)]
        batch = [f"route {what} {route}" for what in ("add", "del") for route in routes]
        batch.insert(len(batch) // 2, f"route add {crowd.hosts[0]}/32 via {GATEWAY}")
        adding = asyncio.get_running_loop().run_in_executor(None, ip, *batch)
        is_over = lambda: adding.done() and crowd.way(crowd.hosts[0]) == f"via {GATEWAY} dev d0"  # noqa: E731
        assert await crowd.longest_turn(is_over) < TURN_S
        await adding

    crowd_does(do)


def test_thousands_of_neighbours_that_go_and_come_hold_nobody_up(crowd_does):
    async def do(crowd):
        ip(*(f"neigh del {host} dev d0" for host in crowd.hosts))
        assert await crowd.longest_turn(lambda: crowd.count(1500) == 0) < TURN_S
        ip(*(f"neigh replace {host} lladdr {MAC} dev d0 nud permanent" for host in crowd.hosts))
        assert await crowd.longest_turn(lambda: crowd.count(1500) == PEERS) < TURN_S

    crowd_does(do)


def test_a_link_with_thousands_of_neighbours_holds_nobody_up(crowd_does):
    async def do(crowd):
        ip("link set d0 mtu 1400")
        assert await crowd.longest_turn(lambda: crowd.count(1400) == PEERS) < TURN_S

    crowd_does(do)


def test_lost_events_of_thousands_of_neighbours_hold_nobody_up(crowd_does, caplog):
    async def do(crowd):
        limit_buffer(crowd.tier._events.fileno())
        gone = crowd.hosts[: PEERS // 2]
        ip(*(f"neigh del {host} dev d0" for host in gone))
        assert await crowd.longest_turn(lambda: crowd.count(1500) == PEERS - len(gone)) < TURN_S
        assert "netlink events were lost; asking for everything again" in caplog.messages

    crowd_does(do)


def test_every_second_holds_nobody_up(crowd_does):
    """What has no event is looked at, of each peer in turn."""

    async def do(crowd):
        for _ in range(3):
            crowd.tier.tick()
            assert await crowd.longest_turn(lambda: crowd.tier._next_hops.is_rerouted) < TURN_S

    crowd_does(do)
