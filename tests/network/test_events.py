"""Events: to whom each is handed, and what the kernel sends, in a namespace of the test."""

import os
import socket

import pytest

from rtpproxy.network.events import EventHandlers, Events, hand_out
from rtpproxy.network.netlink import attribute
from tests.waiting import DEADLINE_S, wait_for

MAC = "02:00:00:00:00:77"


def on_the_kernel(test):
    return pytest.mark.root(pytest.mark.kernel(test))


def handed_out(*names):
    """The calls of handlers for events of these names; for one that was lost, None."""
    calls = []
    handlers = EventHandlers(
        on_link=lambda event: calls.append(("link", event["event"])),
        on_neighbour=lambda event: calls.append(("neighbour", event["event"])),
        on_routing=lambda event: calls.append(("routing", event["event"])),
        on_filter=lambda event: calls.append(("filter", event["event"])),
        on_end=lambda: calls.append("end"),
        on_lost=lambda: calls.append("lost"),
    )
    hand_out(None if None in names else [{"event": name} for name in names], handlers)
    return calls


@pytest.mark.parametrize(
    ("kind", "things"),
    [
        ("link", ["LINK"]),
        ("neighbour", ["NEIGH"]),
        ("routing", ["ADDR", "ROUTE", "RULE"]),
        ("filter", ["QDISC", "TFILTER"]),
    ],
)
def test_each_kind_has_its_handler(kind, things):
    names = [f"RTM_{what}{thing}" for thing in things for what in ("NEW", "DEL")]
    assert handed_out(*names) == [*((kind, name) for name in names), "end"]


def test_events_are_handed_out_in_order():
    """A neighbour may be one of a link that came with it."""
    assert handed_out("RTM_NEWLINK", "RTM_NEWNEIGH", "RTM_DELLINK") == [
        ("link", "RTM_NEWLINK"),
        ("neighbour", "RTM_NEWNEIGH"),
        ("link", "RTM_DELLINK"),
        "end",
    ]


def test_lost_events():
    assert handed_out("RTM_NEWLINK", None) == ["lost"]


@pytest.fixture
def events(topology):
    events = topology.relay.call(Events)
    yield events
    events.close()


@on_the_kernel
def test_events(events, topology):
    assert events.read() == []
    topology.relay.run(["ip", "neigh", "replace", "10.0.1.77", "lladdr", MAC, "dev", "to-caller"])
    (event,) = wait_for(events.read, DEADLINE_S, "the event")
    assert (event["event"], attribute(event, "NDA_DST")) == ("RTM_NEWNEIGH", "10.0.1.77")
    assert events.read() == []


@on_the_kernel
@pytest.mark.parametrize(
    ("command", "event"),
    [
        ("addr add 10.0.9.1/24 dev to-caller", "RTM_NEWADDR"),
        ("route add 198.51.100.0/24 via 10.0.1.2", "RTM_NEWROUTE"),
        ("rule add from 10.0.9.9 table 5", "RTM_NEWRULE"),
        ("link set to-caller mtu 1400", "RTM_NEWLINK"),
        ("link add br0 type bridge", "RTM_NEWLINK"),
        ("link del to-callee", "RTM_DELLINK"),
        ("neigh replace 10.0.1.9 lladdr 02:00:00:00:00:09 dev to-caller", "RTM_NEWNEIGH"),
    ],
)
def test_kinds_of_events(events, topology, command, event):
    topology.relay.run(["ip", *command.split()])
    seen = set()
    wait_for(lambda: seen.update(each["event"] for each in events.read()) or event in seen, DEADLINE_S, event)


@on_the_kernel
def test_lost_events_are_told_once(events, topology):
    with socket.socket(fileno=os.dup(events.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # as small as the kernel allows
    commands = "\n".join(
        f"neigh replace 10.0.1.{number} lladdr 02:00:00:00:00:{number:02x} dev to-caller" for number in range(3, 200)
    )
    topology.relay.run(["ip", "-batch", "-"], input=commands)
    assert events.read() is None
    assert events.read() == []
    topology.relay.run(["ip", "neigh", "del", "10.0.1.3", "dev", "to-caller"])
    assert [event["event"] for event in wait_for(events.read, DEADLINE_S, "an event")][-1] == "RTM_DELNEIGH"
