"""Events: to whom each is handed, and what the kernel sends, in a namespace of the test."""

import asyncio
import os
import socket

import pytest

from rtpproxy.network import rtnl
from rtpproxy.network.events import READ_AT_ONCE, Event, EventHandlers, Events, RoutingChanges, hand_out
from rtpproxy.network.messages import HEADER, Neighbour, read_neighbour
from rtpproxy.network.rtnl import RTM_DELNEIGH, RTM_NEWNEIGH, RTMGRP_IPV4_ROUTE
from tests.waiting import DEADLINE_S, wait_for

MAC = "02:00:00:00:00:77"
STALE = 0x04


def on_the_kernel(test):
    return pytest.mark.root(pytest.mark.kernel(test))


def kind(name):
    return getattr(rtnl, f"RTM_{name}")


def event(name):
    """An event about interface 7; of a neighbour that is none of IP."""
    return Event(kind(name), HEADER.pack(0, kind(name), 0, 0, 0) + (7).to_bytes(8, "little") + bytes(8))


def handed_out(*events):
    """The calls of handlers; for a `None` among the events, one was lost."""
    calls = []
    handlers = EventHandlers(
        on_link=lambda message, is_gone: calls.append(("link", len(message), is_gone)),
        on_neighbour=lambda neighbour, is_gone: calls.append(("neighbour", neighbour.host, is_gone)),
        on_address=lambda: calls.append("address"),
        on_filter=lambda index: calls.append(("filter", index)),
        on_end=lambda: calls.append("end"),
        on_lost=lambda: calls.append("lost"),
    )
    hand_out(None if None in events else events, handlers)
    return calls


FILTER = Event(kind("NEWTFILTER"), HEADER.pack(0, 0, 0, 0, 0) + bytes(4) + (7).to_bytes(4, "little") + bytes(12))


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("NEWLINK", [("link", 32, False)]),
        ("DELLINK", [("link", 32, True)]),
        ("NEWNEIGH", [("neighbour", "", False)]),
        ("DELNEIGH", [("neighbour", "", True)]),
        ("NEWADDR", ["address"]),
        ("DELADDR", ["address"]),
        ("GETROUTE", []),
    ],
)
def test_each_kind_has_its_handler(name, calls):
    assert handed_out(event(name)) == [*calls, "end"]


@pytest.mark.parametrize("what", ["QDISC", "TCLASS", "TFILTER"])
def test_filters_are_told_by_their_interface(what):
    events = [FILTER._replace(kind=kind(f"{which}{what}")) for which in ("NEW", "DEL")]
    assert handed_out(*events) == [("filter", 7), ("filter", 7), "end"]


def test_events_are_handed_out_in_order():
    """A neighbour may be one of a link that came with it."""
    assert handed_out(*map(event, ("NEWLINK", "NEWNEIGH", "DELLINK"))) == [
        ("link", 32, False),
        ("neighbour", "", False),
        ("link", 32, True),
        "end",
    ]


def test_lost_events():
    assert handed_out(event("NEWLINK"), None) == ["lost"]


def test_events_behind_one_whose_handler_fails_count_as_lost():
    calls = []
    ignore = lambda *_: None  # noqa: E731
    handlers = EventHandlers(
        on_link=lambda message, is_gone: 1 // 0,
        on_neighbour=lambda neighbour, is_gone: calls.append("neighbour"),
        on_lost=lambda: calls.append("lost"),
        **dict.fromkeys(("on_address", "on_filter", "on_end"), ignore),
    )
    with pytest.raises(ZeroDivisionError):
        hand_out([*map(event, ("NEWNEIGH", "NEWLINK", "DELNEIGH"))], handlers)
    assert calls == ["neighbour", "lost"]


@pytest.fixture
def events(topology):
    events = topology.relay.call(Events)
    yield events
    events.close()


def add_neighbours(topology, count, mac=MAC):
    """Add neighbours, each of which is one event."""
    commands = (
        f"neigh replace 10.0.1.{3 + number} lladdr {mac} dev to-caller nud permanent" for number in range(count)
    )
    topology.relay.run(["ip", "-batch", "-"], input="\n".join(commands))


@on_the_kernel
def test_events(events, topology):
    assert events.read() == []
    topology.relay.run(["ip", "neigh", "replace", "10.0.1.77", "lladdr", MAC, "dev", "to-caller", "nud", "stale"])
    (found,) = wait_for(events.read, DEADLINE_S, "the event")
    assert found.kind == RTM_NEWNEIGH
    assert read_neighbour(found.message) == Neighbour(topology.caller.gateway.ifindex, "10.0.1.77", MAC, STALE)
    assert events.read() == []


@on_the_kernel
@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("addr add 10.0.9.1/24 dev to-caller", "NEWADDR"),
        ("addr del 10.0.1.1/24 dev to-caller", "DELADDR"),
        ("link set to-caller mtu 1400", "NEWLINK"),
        ("link add br0 type bridge", "NEWLINK"),
        ("link del to-callee", "DELLINK"),
        ("neigh replace 10.0.1.9 lladdr 02:00:00:00:00:09 dev to-caller", "NEWNEIGH"),
    ],
)
def test_kinds_of_events(events, topology, command, name):
    topology.relay.run(["ip", *command.split()])
    seen = set()
    wait_for(lambda: seen.update(each.kind for each in events.read()) or kind(name) in seen, DEADLINE_S, name)


@on_the_kernel
def test_routes_are_no_events(events, topology):
    """They may come by the thousand, and nobody reads what they tell."""
    for command in ("route add 198.51.100.0/24 via 10.0.1.2", "rule add from 10.0.9.9 table 5"):
        topology.relay.run(["ip", *command.split()])
    assert events.read() == []


@on_the_kernel
def test_no_more_events_are_read_at_once_than_others_can_wait_for(events, topology):
    count = 2 * READ_AT_ONCE + 10
    add_neighbours(topology, count)
    assert [len(events.read()) for _ in range(4)] == [READ_AT_ONCE, READ_AT_ONCE, 10, 0]


def limit_buffer(descriptor):
    """Let a socket keep as few events as the kernel allows."""
    with socket.socket(fileno=os.dup(descriptor)) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)


@on_the_kernel
def test_lost_events_are_told_once(events, topology):
    """After what is older than the loss, which would take back what is asked for then."""
    limit_buffer(events.fileno())
    add_neighbours(topology, 200)
    assert events.read() is None
    assert events.read() == []
    topology.relay.run(["ip", "neigh", "del", "10.0.1.3", "dev", "to-caller"])
    assert [found.kind for found in wait_for(events.read, DEADLINE_S, "an event")][-1] == RTM_DELNEIGH


# Changes of routing


class Follower:
    """Counts the calls, and listens again after each, as the kernel tier does."""

    def __init__(self, topology, loop, pause_s=0.0):
        self.calls = 0
        self.pause_s = pause_s
        self.is_called = asyncio.Event()
        self.changes = topology.relay.call(RoutingChanges, loop, RTMGRP_IPV4_ROUTE, self.on_change)

    def on_change(self):
        self.changes.forget()
        self.changes.listen(self.pause_s)
        self.calls += 1
        self.is_called.set()

    async def next(self):
        async with asyncio.timeout(DEADLINE_S):
            await self.is_called.wait()
        self.is_called.clear()


def change_routes(topology, count=1):
    batch = "\n".join(f"route {what} 198.51.100.{n}/32 via 10.0.1.2" for n in range(count) for what in ("add", "del"))
    topology.relay.run(["ip", "-batch", "-"], input=batch)


def run(topology, test, **options):
    async def main():
        follower = Follower(topology, asyncio.get_running_loop(), **options)
        try:
            await test(follower)
        finally:
            follower.changes.close()

    asyncio.run(main())


@on_the_kernel
def test_each_change_is_told(topology):
    async def test(follower):
        follower.changes.listen()
        for _ in range(3):
            change_routes(topology)
            await follower.next()

    run(topology, test)


@on_the_kernel
def test_a_burst_of_changes_is_told_once(topology):
    """Also one of which most events are lost."""

    async def test(follower):
        follower.changes.listen()
        for count in (20, 250):
            change_routes(topology, count)
            await follower.next()
        assert follower.calls == 2
        await asyncio.sleep(0)  # nothing is left that would be told
        assert not follower.is_called.is_set()

    run(topology, test)


@on_the_kernel
def test_what_changed_while_nobody_listened_is_told_later(topology):
    async def test(follower):
        change_routes(topology)
        follower.changes.listen()
        await follower.next()

    run(topology, test)


@on_the_kernel
def test_changes_are_told_after_the_pause_only(topology):
    async def test(follower):
        loop = asyncio.get_running_loop()
        follower.changes.listen()
        change_routes(topology)
        await follower.next()
        told_at = loop.time()
        change_routes(topology)
        await follower.next()
        assert loop.time() >= told_at + follower.pause_s

    run(topology, test, pause_s=0.2)
