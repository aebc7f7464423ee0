"""What the kernel tier does that no network in a namespace can show; the rest is in tests/netns_call.

And that nothing of what it does keeps packets and commands waiting: a turn of the event loop is bounded by the
processor time of its thread, which does not grow on a busy machine, with ten times the room that it needs.
"""

import asyncio
import contextlib

import pytest

from rtpproxy.config import Config, ListenAddress
from rtpproxy.errors import OffloadError
from rtpproxy.offload.entry import Tier
from rtpproxy.offload.programs import Programs
from rtpproxy.offload.syscall import map_write, possible_cpus
from rtpproxy.offload.tier import KernelTier
from tests.network.test_events import limit_buffer
from tests.offload.crowd import GATEWAY, crowd_of, ip
from tests.offload.relay_network import Foreground
from tests.running import own_namespace

pytestmark = [pytest.mark.root, pytest.mark.kernel]

ANY = ListenAddress()
PEERS = 6000
ROUTES = 10_000
TURN_S = 0.03
"""Processor time that no turn may take."""


@pytest.fixture(scope="module")
def programs():
    """The programs and maps of a relay, in a namespace of its own."""
    config = Config(listen=(ANY,), lowest_port=30000, highest_port=60001)
    with own_namespace(), contextlib.closing(Programs(config)) as programs:
        yield programs, config


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


@pytest.mark.parametrize("what", ["links", "neighbours"])
def test_list_that_the_kernel_did_not_give_is_asked_for_again(programs, caplog, what):
    """Nothing else would tell what the lost events told."""
    programs, config = programs
    failures, answered = [OffloadError("netlink: No buffer space available")], []

    def fail_once():
        if failures:
            raise failures.pop()
        answered.append(what)

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        tier = KernelTier(config, programs, lambda: None, loop, Foreground())
        tier.start()
        reload, parts = tier._interfaces.reload, tier._neighbours._netlink.dump_parts
        if what == "links":
            tier._interfaces.reload = lambda: (fail_once(), reload())
        else:
            tier._neighbours._netlink.dump_parts = lambda *ask: (fail_once() or part for part in parts(*ask))
        tier._on_lost_events()
        assert caplog.messages[-1] == f"cannot ask for {what}: netlink: No buffer space available"
        assert answered == []
        tier.tick()
        assert answered != []
        tier.close()


# Turns of the event loop


@pytest.fixture
def crowd_does(programs):
    """Runs a coroutine function with a crowd."""

    async def main(do):
        async with crowd_of(*programs, PEERS) as crowd:
            await do(crowd)

    return lambda do: asyncio.run(main(do))


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
        assert await crowd.longest_turn(lambda: crowd.count() == 0) < TURN_S
        crowd.add_neighbours()
        assert await crowd.longest_turn(lambda: crowd.count() == PEERS) < TURN_S

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
        assert await crowd.longest_turn(lambda: crowd.count() == PEERS - len(gone)) < TURN_S
        assert "netlink events were lost; asking for everything again" in caplog.messages

    crowd_does(do)


def test_program_that_is_needed_while_calls_are_up_holds_nobody_up():
    """A bridge comes, which takes no native XDP; no other interface needed that program for TC."""
    config = Config(listen=(ANY,), lowest_port=30000, highest_port=30099)

    async def do(programs):
        async with crowd_of(programs, config, 1) as crowd:
            ip("link add b0 type bridge", "link set b0 up", "addr add 10.200.0.1/24 dev b0")
            try:
                tiers = lambda: {one.name: one.tier for one in crowd.tier._interfaces.reports()}  # noqa: E731
                assert await crowd.longest_turn(lambda: tiers().get("b0") is Tier.TC) < TURN_S
            finally:
                ip("link del b0")

    with own_namespace(), contextlib.closing(Programs(config)) as programs:
        asyncio.run(do(programs))


def test_every_second_holds_nobody_up(crowd_does):
    """What has no event is looked at, of each peer in turn."""

    async def do(crowd):
        for _ in range(3):
            crowd.tier.tick()
            assert await crowd.longest_turn(lambda: crowd.is_rechecked) < TURN_S

    crowd_does(do)
