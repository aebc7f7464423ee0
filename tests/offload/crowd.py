"""A kernel tier with thousands of peers, each of which is a neighbour on one link, for tests and the benchmark."""

import asyncio
import gc
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from rtpproxy.addr import Endpoint
from rtpproxy.config import Config
from rtpproxy.network.background import Background
from rtpproxy.offload.entry import ForwardingEntry
from rtpproxy.offload.programs import Programs
from rtpproxy.offload.tier import KernelTier
from tests.waiting import DEADLINE_S

GATEWAY = "10.0.0.9"
"""On the link `d0`, beside the peers."""
FIRST_PORT = 30000
_OURS, _MAC = "10.0.0.1", "02:00:00:00:00:77"
_MTU = 1500
_REACHABLE_TIME = Path("/proc/sys/net/ipv4/neigh/d0/base_reachable_time_ms")


def ip(*commands: str) -> None:
    """Run iproute2 commands in this network namespace."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)


class _Owner:
    """Wants entries, and is not interested in what becomes of them."""

    label = "call"

    def entered_kernel(self, key: int, program: str, now: float) -> None: ...
    def left_kernel(self, key: int, reason: str, now: float) -> None: ...


class Crowd:
    """The tier, and its peers' addresses."""

    def __init__(self, programs: Programs, config: Config, peers: int) -> None:
        self._rows = programs.tables.next_hops
        self._loop = asyncio.get_running_loop()
        self._background = Background(self._loop)
        self.hosts = [f"10.1.{number >> 8}.{number & 255}" for number in range(1, peers + 1)]
        self.tier = KernelTier(config, programs, lambda: None, self._loop, self._background)

    def add_neighbours(self, state: str = "nud permanent") -> None:
        """Let the kernel know the peers, in a state in which it forgets none of them."""
        ip(*(f"neigh replace {host} lladdr {_MAC} dev d0 {state}" for host in self.hosts))

    def start(self) -> None:
        """Attach, and install an entry for each peer."""
        self.tier.start()
        for port, host in enumerate(self.hosts, FIRST_PORT):
            peer = Endpoint(host, 5004)
            entry = ForwardingEntry(port, _OURS, peer, False, True, "", port, peer, 0xB8)
            self.tier.forwarder.apply(_Owner(), {entry.key: entry}, self._loop.time())

    def close(self) -> None:
        """Withdraw and detach."""
        for port, _ in enumerate(self.hosts, FIRST_PORT):
            self.tier.forwarder.withdraw(port, "it is over", self._loop.time())
        self._background.close()
        self.tier.close()

    def count(self, mtu: int = _MTU) -> int:
        """Count the next hops with an MTU; one that is not usable has none."""
        return int((self._rows._rows.column("mtu") == mtu).sum())

    def way(self, host: str) -> str:
        """Say how packets leave for a peer."""
        route = self.tier._next_hops.current(host, "")
        return getattr(route, "description", "")

    @property
    def is_rechecked(self) -> bool:
        """True when everything is done that a tick of the tier began."""
        return self.tier._next_hops.is_rerouted and not self.tier._neighbours._confirmations._is_asking

    async def longest_turn(self, is_over: Callable[[], bool]) -> float:
        """Let the event loop run until a condition holds. Returns the most processor time of a turn, in seconds."""
        longest, end = 0.0, time.monotonic() + DEADLINE_S
        with _without_collector():
            while not is_over():
                assert time.monotonic() < end, "waited in vain"
                before = time.thread_time()
                await asyncio.sleep(0)
                longest = max(longest, time.thread_time() - before)
        return longest


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep Python from looking through all of this process's objects; the relay has few, and seldom does it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@asynccontextmanager
async def crowd_of(
    programs: Programs, config: Config, peers: int, state: str = "nud permanent"
) -> AsyncIterator[Crowd]:
    """A crowd on a new link `d0` of this network namespace, every peer known and forwarded to."""
    _add_link()
    try:
        crowd = Crowd(programs, config, peers)
        crowd.add_neighbours(state)
        crowd.start()
        try:
            # Were neighbours deleted before they are confirmed, that would make new ones, too many for all namespaces.
            await crowd.longest_turn(lambda: crowd.count() == peers and crowd.is_rechecked)
            yield crowd
        finally:
            crowd.close()
    finally:
        ip("link del d0")


def _add_link() -> None:
    ip("link add d0 type veth peer d1", "link set d0 up", "link set d1 up", f"addr add {_OURS}/8 dev d0")
    _REACHABLE_TIME.write_text("3600000")  # nobody answers
