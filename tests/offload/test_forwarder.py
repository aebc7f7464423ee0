"""The forwarder: what is installed is always what is wanted, as far as routes allow."""

import logging
from dataclasses import replace

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.offload.contradictions import Contradictions
from rtpproxy.offload.entry import LINK_LOCAL, NOT_LEARNED, REFLECTED, ForwardingEntry, Ingress, NotOffloaded, Tier
from rtpproxy.offload.forwarder import COMES_UP, PLACED_AT_ONCE, Contradicted, Forwarder
from rtpproxy.offload.nexthop import NoRoute
from rtpproxy.rtp.statistics import RtpState
from tests.offload.fake_kernel import OTHER_ROUTE, ROUTE, FakeNextHops, FakeRows

TO = Endpoint("10.0.2.2", 6006)
NO_ROUTE = NoRoute("no route to 10.0.2.2: Network is unreachable")
ENTRY = ForwardingEntry(35000, "10.0.1.1", Endpoint("10.0.1.2", 5004), False, True, "", 36000, TO, 0xB8)
RTCP = replace(ENTRY, port=35001, is_rtp=False)
INGRESS = "10.0.1.2", "10.0.1.1"
"""The route back to the sender, which tells where its packets arrive."""


class FakeOwner:
    """Notes what it is told of its entries: key, program or reason, and time."""

    def __init__(self, label):
        self.label = label
        self.heard = []

    def entered_kernel(self, key, program, now):
        self.heard.append(("entered", key, program, now))

    def left_kernel(self, key, reason, now):
        self.heard.append(("left", key, reason, now))


class Scene:
    def __init__(self):
        self.now = 1.0
        self.owners = {}
        self.rows, self.next_hops = FakeRows(), FakeNextHops()
        self.forwarded = {}
        """By key of the port: what the kernel counted."""
        self.forwarder = Forwarder(self.rows, self.next_hops, Contradictions(lambda key: self.forwarded.get(key, 0)))

    def apply(self, *wanted, label="call 1"):
        """Apply entries, and reasons for none as (port, reason)."""
        by_port = {want.port: want for want in wanted if isinstance(want, ForwardingEntry)}
        by_port.update(want for want in wanted if isinstance(want, tuple))
        owner = self.owners.setdefault(label, FakeOwner(label))
        self.forwarder.apply(owner, by_port, self.now)

    def reroute(self, most=10):
        return self.forwarder.reroute(most, self.now)

    def withdraw(self, port, reason="deleted"):
        self.forwarder.withdraw(port, reason, self.now)


@pytest.fixture
def scene():
    return Scene()


@pytest.fixture
def log(caplog):
    """Return a function that takes the lines logged so far, and forgets them."""
    caplog.set_level(logging.INFO, "rtpproxy.offload.forwarder")

    def take():
        lines = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return lines

    return take


def test_install_and_withdraw(scene, log):
    scene.apply(ENTRY, RTCP)
    assert scene.rows.rows == {35000: (ENTRY, "10.0.2.1", 7), 35001: (RTCP, "10.0.2.1", 7)}
    assert scene.next_hops.users == {("10.0.2.2", ""): 2, INGRESS: 2}
    enters = "10.0.1.2:5004 -> port {} -> 10.0.2.2:6006 via 10.0.2.2 dev eth1; enters the kernel, XDP"
    assert log() == [f"call 1: stream {enters.format(port)}" for port in (35000, 35001)]

    scene.withdraw(35000)
    assert list(scene.rows.rows) == [35001]
    assert log() == ["call 1: stream at port 35000 leaves the kernel: deleted"]

    scene.withdraw(35001)
    assert (scene.rows.rows, scene.next_hops.users) == ({}, {})


def test_withdraw_of_what_never_was(scene, log):
    scene.withdraw(35000)
    assert (scene.rows.rows, log()) == ({}, [])


def test_same_again_does_nothing(scene, log):
    scene.apply(ENTRY)
    log()
    scene.rows.rows.clear()
    scene.apply(ENTRY)
    assert (scene.rows.rows, log(), scene.next_hops.users) == ({}, [], {("10.0.2.2", ""): 1, INGRESS: 1})


def test_tee_that_comes_and_goes(scene):
    """The row changes; the kernel goes on forwarding, so the owner hears nothing, and routes stay."""
    scene.apply(ENTRY)
    heard = list(scene.owners["call 1"].heard)
    for tee in (7, 0):
        scene.apply(replace(ENTRY, tee=tee))
        assert scene.rows.rows == {35000: (replace(ENTRY, tee=tee), "10.0.2.1", 7)}
    assert scene.owners["call 1"].heard == heard
    assert scene.next_hops.users == {("10.0.2.2", ""): 1, INGRESS: 1}


def test_tee_stays_when_the_route_changes(scene):
    """To another next hop, to none, which is the way to userspace, and back."""
    teed = replace(ENTRY, tee=7)
    scene.apply(teed)
    for route, row in (
        (OTHER_ROUTE, (teed, OTHER_ROUTE.from_host, OTHER_ROUTE.number)),
        (NO_ROUTE, None),
        (ROUTE, (teed, ROUTE.from_host, ROUTE.number)),
    ):
        scene.next_hops.routes["10.0.2.2"] = route
        scene.next_hops.changed = [("10.0.2.2", "")]
        scene.reroute()
        assert scene.rows.rows.get(35000) == row


def test_reason_instead_of_an_entry(scene, log):
    scene.apply((35000, NOT_LEARNED))
    assert (scene.rows.rows, scene.next_hops.users, log()) == ({}, {}, [])
    scene.apply(ENTRY)
    log()
    scene.apply((35000, NotOffloaded("a prompt is played to it")))
    assert (scene.rows.rows, scene.next_hops.users) == ({}, {})
    assert log() == ["call 1: stream at port 35000 leaves the kernel: a prompt is played to it"]


def test_ports_of_other_sessions_stay(scene):
    scene.apply(ENTRY)
    scene.apply(replace(ENTRY, port=40000), label="call 2")
    scene.apply((40000, NOT_LEARNED), label="call 2")
    assert list(scene.rows.rows) == [35000]


def test_changed_entry_on_the_same_route(scene, log):
    scene.apply(ENTRY)
    log()
    moved = replace(ENTRY, source=Endpoint("10.0.1.9", 9))
    scene.apply(moved)
    assert scene.rows.rows == {35000: (moved, "10.0.2.1", 7)}
    assert scene.next_hops.users == {("10.0.2.2", ""): 1, ("10.0.1.9", "10.0.1.1"): 1}
    changed = "10.0.1.9:9 -> port 35000 -> 10.0.2.2:6006 via 10.0.2.2 dev eth1; changed in the kernel, XDP"
    assert log() == [f"call 1: stream {changed}"]


def test_changed_entry_to_another_peer(scene):
    scene.next_hops.routes["10.0.3.2"] = OTHER_ROUTE
    scene.apply(ENTRY)
    moved = replace(ENTRY, to=Endpoint("10.0.3.2", 1))
    scene.apply(moved)
    assert scene.rows.rows == {35000: (moved, "10.0.3.1", 8)}
    assert scene.next_hops.users == {("10.0.3.2", ""): 1, INGRESS: 1}


def test_changed_entry_to_a_peer_without_route(scene, log):
    scene.next_hops.routes["10.0.3.2"] = NO_ROUTE
    scene.apply(ENTRY)
    log()
    scene.apply(replace(ENTRY, to=Endpoint("10.0.3.2", 1)))
    assert scene.rows.rows == {}
    assert scene.next_hops.users == {("10.0.3.2", ""): 1, INGRESS: 1}
    assert log() == [f"call 1: stream at port 35000 leaves the kernel: {NO_ROUTE.reason}"]


def test_our_address_is_part_of_the_route(scene):
    scene.apply(ENTRY, replace(RTCP, from_host="10.0.9.9"))
    assert scene.next_hops.users == {("10.0.2.2", ""): 1, ("10.0.2.2", "10.0.9.9"): 1, INGRESS: 2}
    scene.apply((35000, NOT_LEARNED), (35001, NOT_LEARNED))
    assert scene.next_hops.users == {}


def test_without_a_route(scene, log):
    scene.next_hops.routes["10.0.2.2"] = NO_ROUTE
    scene.apply(ENTRY)
    assert scene.rows.rows == {}
    assert scene.next_hops.users == {("10.0.2.2", ""): 1, INGRESS: 1}
    assert log() == [f"call 1: stream at port 35000 stays in userspace: {NO_ROUTE.reason}"]

    scene.withdraw(35000)
    assert (scene.next_hops.users, log()) == ({}, [])


def test_route_that_comes_changes_and_goes(scene, log):
    scene.next_hops.routes["10.0.2.2"] = NO_ROUTE
    scene.apply(ENTRY, RTCP)
    log()
    steps = [
        (ROUTE, 7, "enters the kernel, XDP"),
        (OTHER_ROUTE, 8, "changed in the kernel, XDP"),
    ]
    for route, number, what in steps:
        scene.next_hops.routes["10.0.2.2"] = route
        scene.next_hops.changed = [("10.0.2.2", "")]
        assert not scene.reroute()
        assert {port: row[1:] for port, row in scene.rows.rows.items()} == {
            port: (route.from_host, number) for port in (35000, 35001)
        }
        assert [line.rpartition("; ")[2] for line in log()] == [what, what]

    scene.next_hops.routes["10.0.2.2"] = NO_ROUTE
    scene.next_hops.changed = [("10.0.2.2", "")]
    scene.reroute()
    assert scene.rows.rows == {}
    assert sorted(log()) == [
        f"call 1: stream at port {port} leaves the kernel: {NO_ROUTE.reason}" for port in (35000, 35001)
    ]


def test_reroute_in_parts(scene):
    hosts = [f"10.0.2.{number}" for number in (2, 3, 4)]
    scene.apply(*(replace(ENTRY, port=number, to=Endpoint(host, 1)) for number, host in enumerate(hosts, 1)))
    for host in hosts:
        scene.next_hops.routes[host] = OTHER_ROUTE
    scene.next_hops.changed = [(host, "") for host in hosts]
    assert scene.reroute(2)
    assert [row[2] for row in scene.rows.rows.values()] == [8, 8, 7]
    assert not scene.reroute(2)
    assert [row[2] for row in scene.rows.rows.values()] == [8, 8, 8]


def test_reroute_of_a_peer_that_many_calls_have(scene):
    """Their rows are written in parts, too, and those of other peers after them."""
    others = [replace(ENTRY, port=1 + number, to=Endpoint("10.0.3.2", 1)) for number in range(2)]
    scene.apply(*others, *(replace(ENTRY, port=100 + number) for number in range(2 * PLACED_AT_ONCE)))
    for host in ("10.0.2.2", "10.0.3.2"):
        scene.next_hops.routes[host] = OTHER_ROUTE
    scene.next_hops.changed = [("10.0.2.2", ""), ("10.0.3.2", "")]

    def placed():
        return sum(number == OTHER_ROUTE.number for _, _, number in scene.rows.rows.values())

    assert scene.reroute(1)
    assert placed() == PLACED_AT_ONCE
    assert scene.reroute(1)
    assert placed() == 2 * PLACED_AT_ONCE
    assert not scene.reroute(1)
    assert placed() == 2 * PLACED_AT_ONCE + len(others)


def test_reroute_of_a_peer_that_nobody_wants(scene, log):
    scene.next_hops.changed = [("10.0.2.2", "")]
    assert not scene.reroute()
    assert (scene.rows.rows, log()) == ({}, [])


def test_ingress_without_a_program(scene, log):
    """Nothing is forwarded as long as no program is at the ingress interface, whatever the egress interface has."""
    report = "eth0: userspace (not named by --interface)"
    unnamed = NoRoute(f"the egress interface cannot send redirected frames: {report}", report)
    scene.next_hops.routes["10.0.1.2"] = unnamed
    scene.apply(ENTRY)
    assert scene.rows.rows == {}
    reason = f"ingress: {report}"
    assert log() == [f"call 1: stream at port 35000 stays in userspace: {reason}"]
    for back, is_installed in ((ROUTE, True), (unnamed, False)):
        scene.next_hops.routes["10.0.1.2"] = back
        scene.next_hops.changed = [INGRESS]
        scene.reroute()
        assert (35000 in scene.rows.rows) is is_installed
    assert log()[-1] == f"call 1: stream at port 35000 leaves the kernel: {reason}"
    scene.withdraw(35000)
    assert scene.next_hops.users == {}


def test_ingress_that_changes_does_not_touch_the_row(scene, log):
    scene.apply(ENTRY)
    scene.rows.rows.clear()
    log()
    scene.next_hops.routes["10.0.1.2"] = OTHER_ROUTE
    scene.next_hops.changed = [INGRESS]
    scene.reroute()
    assert (scene.rows.rows, log()) == ({}, [])


def test_sender_without_a_route_back(scene):
    """Its packets arrive all the same, by some interface."""
    scene.next_hops.routes["10.0.1.2"] = NoRoute("no route to 10.0.1.2: Network is unreachable")
    scene.apply(ENTRY)
    assert list(scene.rows.rows) == [35000]


def test_sender_that_hears_its_own_packets(scene):
    """Where the routes to the peer and to the sender are the same, it is released once."""
    echo = replace(ENTRY, to=ENTRY.source, from_host=ENTRY.local_host)
    scene.apply(echo)
    assert scene.next_hops.users == {INGRESS: 1}
    scene.withdraw(35000)
    assert scene.next_hops.users == {}


class FakeTracker:
    """Has the state that a test says."""

    def __init__(self, ssrc):
        self.ssrc = ssrc

    def state(self):
        return RtpState(self.ssrc)


def test_statistics_go_over_before_the_first_entry(scene):
    tracker = FakeTracker(1)
    scene.forwarder.seed(35000, tracker)
    tracker.ssrc = 2
    assert scene.rows.seeded == []
    scene.apply(ENTRY)
    assert scene.rows.seeded == [(35000, False, 2)]
    scene.apply(replace(ENTRY, source=Endpoint("10.0.1.9", 9)))
    assert len(scene.rows.seeded) == 1


def test_statistics_of_a_port_with_an_entry_go_over_at_once(scene):
    scene.apply(ENTRY)
    assert (scene.forwarder.is_wanted(35000), scene.forwarder.is_wanted(35001)) == (True, False)
    scene.forwarder.hold(35000)
    scene.forwarder.seed(35000, FakeTracker(3))
    assert (scene.rows.held, scene.rows.seeded) == ([35000], [(35000, True, 3)])


def test_statistics_wait_for_a_route(scene):
    scene.next_hops.routes["10.0.2.2"] = NO_ROUTE
    scene.apply(ENTRY)
    assert scene.forwarder.is_wanted(35000)
    scene.forwarder.hold(35000)
    scene.forwarder.seed(35000, FakeTracker(3))
    assert (scene.rows.held, scene.rows.seeded) == ([], [])
    scene.next_hops.routes["10.0.2.2"] = ROUTE
    scene.next_hops.changed = [("10.0.2.2", "")]
    scene.reroute()
    assert scene.rows.seeded == [(35000, False, 3)]


def test_statistics_of_an_entry_that_never_came_are_forgotten(scene):
    scene.next_hops.routes["10.0.2.2"] = NO_ROUTE
    scene.apply(ENTRY)
    scene.forwarder.seed(35000, FakeTracker(3))
    scene.withdraw(35000)
    scene.next_hops.routes.clear()
    scene.apply(ENTRY)
    assert scene.rows.seeded == []


# Owners


def heard(scene, label="call 1"):
    return scene.owners[label].heard


def test_owner_hears_of_its_own_streams(scene):
    scene.apply(ENTRY)
    scene.apply(replace(ENTRY, port=40000), label="call 2")
    scene.now = 2.0
    scene.withdraw(35000)
    scene.apply((40000, REFLECTED), label="call 2")
    assert heard(scene) == [("entered", 35000, "XDP", 1.0), ("left", 35000, "deleted", 2.0)]
    assert heard(scene, "call 2") == [("entered", 40000, "XDP", 1.0), ("left", 40000, REFLECTED, 2.0)]


def test_owner_hears_of_routes_that_change(scene):
    """It hears when the program is another one, but not when only the next hop changes."""
    scene.apply(ENTRY)
    for route in (OTHER_ROUTE, replace(OTHER_ROUTE, is_by_xdp=False), NO_ROUTE, NO_ROUTE, ROUTE):
        scene.now += 1
        scene.next_hops.routes["10.0.2.2"] = route
        scene.next_hops.changed = [("10.0.2.2", "")]
        scene.reroute()
    assert heard(scene) == [
        ("entered", 35000, "XDP", 1.0),
        ("entered", 35000, "TC", 3.0),
        ("left", 35000, NO_ROUTE.reason, 4.0),
        ("entered", 35000, "XDP", 6.0),
    ]


def test_owner_hears_nothing_of_what_stays_in_userspace(scene):
    scene.next_hops.routes["10.0.2.2"] = NO_ROUTE
    scene.apply(ENTRY, (35001, LINK_LOCAL))
    scene.apply((35000, NOT_LEARNED))
    scene.withdraw(35001)
    assert heard(scene) == []


# Streams by program and by reason


@pytest.mark.parametrize(
    ("route", "back", "program"),
    [
        (ROUTE, ROUTE, "XDP"),
        (ROUTE, replace(ROUTE, tier=Tier.TC), "TC"),
        (replace(ROUTE, is_by_xdp=False), ROUTE, "TC"),
        (replace(ROUTE, tier=Tier.USERSPACE), ROUTE, "XDP"),
        (ROUTE, NoRoute("no route to 10.0.1.2"), "XDP or TC"),
    ],
)
def test_program(scene, log, route, back, program):
    scene.next_hops.routes = {"10.0.2.2": route, "10.0.1.2": back}
    scene.apply(ENTRY)
    assert scene.forwarder.by_program() == {program: 1}
    assert log()[0].endswith(f"enters the kernel, {program}")
    scene.withdraw(35000)
    assert scene.forwarder.by_program() == {}


def test_row_names_the_ingress_interface(scene):
    """That of the route back, also where nothing could be sent by it; it is written anew when that changes."""
    for ingress in (Ingress(3, "02:00:00:00:00:03"), Ingress(3, "02:00:00:00:00:04"), Ingress(4, "02:00:00:00:00:04")):
        for back in (replace(ROUTE, ingress=ingress), NoRoute("the table of next hops is full", ingress=ingress)):
            scene.next_hops.routes["10.0.1.2"] = back
            scene.next_hops.changed = [INGRESS]
            scene.rows.ingress.clear()
            scene.apply(ENTRY)
            scene.reroute()
            assert scene.rows.ingress == {35000: ingress}


def test_ingress_where_nothing_is_forwarded(scene):
    scene.next_hops.routes["10.0.1.2"] = replace(ROUTE, tier=Tier.USERSPACE)
    scene.apply(ENTRY)
    reason = "ingress: nothing is forwarded that arrives via 10.0.2.2 dev eth1"
    assert scene.forwarder.by_reason() == {reason: 1}


def test_reasons_are_kept_and_told_once(scene, log):
    for _ in range(2):
        scene.apply((35000, LINK_LOCAL), (35001, NOT_LEARNED))
    assert log() == [f"call 1: stream at port 35000 stays in userspace: {LINK_LOCAL}"]
    assert scene.forwarder.by_reason() == {LINK_LOCAL: 1}
    scene.apply(ENTRY)
    assert scene.forwarder.by_reason() == {}
    scene.apply((35000, REFLECTED))
    assert scene.forwarder.by_reason() == {REFLECTED: 1}
    scene.apply((35000, NOT_LEARNED))
    assert scene.forwarder.by_reason() == {}
    scene.apply((35000, LINK_LOCAL))
    scene.withdraw(35000)
    assert scene.forwarder.by_reason() == {}


# Contradictions


def come_up(scene, port=35000):
    """A second of packets that reach userspace, and the check at its end."""
    for _ in range(50):
        scene.forwarder.came_up(port, scene.now)
        scene.now += 0.02
    return scene.forwarder.check(scene.now)


def test_entry_whose_packets_come_up(scene, log):
    scene.next_hops.indexes["10.0.1.2"] = 11
    scene.apply(ENTRY, RTCP)
    log()
    assert come_up(scene) == Contradicted({11: True}, 50)
    assert scene.forwarder.by_program() == {"XDP": 1}
    assert scene.forwarder.by_reason() == {COMES_UP: 1}
    assert scene.owners["call 1"].heard[-1] == ("left", 35000, COMES_UP, scene.now)
    assert log() == ["call 1: stream at port 35000 has an entry, but its packets reach userspace all the same"]
    assert list(scene.rows.rows) == [35000, 35001]
    assert come_up(scene) == Contradicted({11: False}, 50)
    assert log() == []


def test_entry_that_is_used_again(scene, log):
    scene.apply(ENTRY)
    come_up(scene)
    log()
    scene.forwarded[35000] = 1
    assert come_up(scene) == Contradicted({}, 0)
    assert (scene.forwarder.by_program(), scene.forwarder.by_reason()) == ({"XDP": 1}, {})
    assert scene.owners["call 1"].heard[-1] == ("entered", 35000, "XDP", scene.now)
    enters = "10.0.1.2:5004 -> port 35000 -> 10.0.2.2:6006 via 10.0.2.2 dev eth1; enters the kernel again, XDP"
    assert log() == [f"call 1: stream {enters}"]


def test_changed_entry_is_believed_again(scene):
    scene.apply(ENTRY)
    come_up(scene)
    scene.apply(replace(ENTRY, source=Endpoint("10.0.1.9", 9)))
    assert scene.forwarder.by_program() == {"XDP": 1}
    assert scene.owners["call 1"].heard[-1] == ("entered", 35000, "XDP", scene.now)
    assert scene.forwarder.check(scene.now) == Contradicted({}, 0)


def test_entry_that_goes_is_no_contradiction_any_more(scene):
    scene.apply(ENTRY)
    come_up(scene)
    heard = list(scene.owners["call 1"].heard)
    scene.withdraw(35000)
    assert (scene.forwarder.by_program(), scene.forwarder.by_reason()) == ({}, {})
    assert scene.owners["call 1"].heard == heard
    assert come_up(scene) == Contradicted({}, 0)


def test_entries_by_ingress_interface(scene):
    scene.next_hops.indexes.update({"10.0.1.2": 11, "10.0.1.9": 12})
    scene.apply(ENTRY, replace(RTCP, source=Endpoint("10.0.1.9", 9)))
    assert (scene.forwarder.installed_by(11), scene.forwarder.installed_by(12)) == ([35000], [35001])
    assert scene.forwarder.installed_by(13) == []


# Errors that come between


def failing_once(call):
    """The same call, which raises after it did its work the first time."""
    failures = iter([RuntimeError("between")])

    def then_fail(*arguments):
        call(*arguments)
        for failure in failures:
            raise failure

    return then_fail


def test_number_of_a_row_is_named_until_the_row_is_withdrawn(scene):
    """Whatever error comes between."""
    numbers = scene.next_hops.numbers
    scene.rows.install = failing_once(scene.rows.install)
    with pytest.raises(RuntimeError, match="between"):
        scene.apply(ENTRY)
    assert numbers.is_named_by(35000)
    scene.withdraw(35000)
    assert (scene.rows.rows, numbers.is_named_by(35000)) == ({}, False)

    scene.apply(ENTRY)
    withdraw = scene.rows.withdraw
    scene.rows.withdraw = failing_once(lambda port: None)
    with pytest.raises(RuntimeError, match="between"):
        scene.apply((35000, NOT_LEARNED))
    assert numbers.is_named_by(35000)
    scene.rows.withdraw = withdraw


def test_an_error_keeps_no_other_row_from_being_placed(scene):
    scene.apply(ENTRY, RTCP)
    scene.next_hops.routes["10.0.2.2"] = OTHER_ROUTE
    scene.next_hops.changed = [("10.0.2.2", "")]
    scene.rows.install = failing_once(scene.rows.install)
    with pytest.raises(RuntimeError, match="between"):
        scene.reroute()
    scene.reroute()
    assert {number for _, _, number in scene.rows.rows.values()} == {8}


def test_routes_of_an_entry_that_could_not_be_resolved_are_not_kept(scene):
    acquire = scene.next_hops.acquire

    def refuse(to_host, from_host):
        if (to_host, from_host) == INGRESS:
            raise RuntimeError("between")
        return acquire(to_host, from_host)

    scene.next_hops.acquire = refuse
    with pytest.raises(RuntimeError, match="between"):
        scene.apply(ENTRY)
    assert scene.next_hops.users == {}
