"""Events of a session's life as observers hear them: which, with what, and in which order."""

import logging
from dataclasses import dataclass

import pytest

from rtpproxy.cli.arguments import parse_notify_target
from rtpproxy.offload.contradictions import Contradictions
from rtpproxy.offload.forwarder import Forwarder
from rtpproxy.offload.nexthop import NoRoute
from rtpproxy.service.events import Ending, Observer
from rtpproxy.session.session import Component, Role, Session, Stream
from tests.offload.fake_kernel import OTHER_ROUTE, ROUTE, FakeNextHops, FakeRows
from tests.running import rtp
from tests.scenario import (
    CALLEE,
    CALLEE_RTCP,
    CALLER,
    CALLER_RTCP,
    FACES_CALLEE,
    FACES_CALLEE_RTCP,
    FACES_CALLER_RTCP,
    OUR_HOST,
    RTCP,
    TO_CALLER,
    Scenario,
    start_talking,
)

CALLEE_RTP, CALLER_RTP = (Role.CALLEE, Component.RTP), (Role.CALLER, Component.RTP)
NO_ROUTE = NoRoute("no route to 10.0.1.2: Network is unreachable")


class Diary(Observer):
    """Writes everything down: the event, its arguments, and the seconds since the start."""

    def __init__(self) -> None:
        self.entries: list[tuple[object, ...]] = []
        self.sessions: set[Session] = set()

    def take(self) -> list[tuple[object, ...]]:
        """Return the entries so far, and forget them."""
        entries, self.entries = self.entries, []
        return entries

    def _write(self, event: str, session: Session, now: float, *more: object) -> None:
        self.sessions.add(session)
        self.entries.append((event, *more, now - 1000.0))

    def created(self, session: Session, now: float) -> None:
        self._write("created", session, now)

    def completed(self, session: Session, now: float) -> None:
        self._write("completed", session, now)

    def changed(self, session: Session, now: float) -> None:
        self._write("changed", session, now)

    def learned(self, session: Session, stream: Stream, now: float) -> None:
        self._write("learned", session, now, place(session, stream), stream.latch.remote)

    def entered_kernel(self, session: Session, stream: Stream, program: str, now: float) -> None:
        self._write("entered kernel", session, now, place(session, stream), program)

    def left_kernel(self, session: Session, stream: Stream, reason: str, now: float) -> None:
        self._write("left kernel", session, now, place(session, stream), reason)

    def timed_out(self, session: Session, timeout_s: float, now: float) -> None:
        self._write("timed out", session, now, timeout_s)

    def ended(self, session: Session, why: Ending, now: float) -> None:
        self._write("ended", session, now, why)


def place(session: Session, stream: Stream) -> tuple[Role, Component]:
    """Tell which stream of its session it is."""
    return next((leg.role, stream.component) for leg in session.legs if stream in leg.streams)


@pytest.fixture
def diary():
    return Diary()


@pytest.fixture
def next_hops():
    return FakeNextHops()


@pytest.fixture
def forwarder(next_hops):
    return Forwarder(FakeRows(), next_hops, Contradictions(lambda _: 0))


@pytest.fixture
def play(diary, forwarder):
    """A service with the real forwarder on rows and routes that are faked."""
    return Scenario(observers=[diary], entries=forwarder, listen_host=OUR_HOST)


def test_a_call_from_its_first_command_to_its_timeout(play, diary, forwarder, next_hops):
    def routes_lead(route, second):
        next_hops.routes["10.0.1.2"] = route
        next_hops.changed = [("10.0.1.2", OUR_HOST)]
        play.at(second)
        forwarder.reroute(10, play.now)

    play.ask("U call 10.0.1.2 4000 f")
    assert diary.take() == [("created", 0.0)]

    play.at(1)
    play.ask("L call 10.0.2.2 5000 f t")
    assert diary.take() == [("completed", 1.0), ("changed", 1.0)]

    play.at(2)
    start_talking(play)
    assert diary.take() == [
        ("learned", CALLEE_RTP, CALLEE, 2.0),
        ("entered kernel", CALLEE_RTP, "XDP", 2.0),
        ("learned", CALLER_RTP, CALLER, 2.0),
        ("entered kernel", CALLER_RTP, "XDP", 2.0),
    ]

    routes_lead(NO_ROUTE, 3)
    assert set(diary.take()) == {
        ("left kernel", CALLEE_RTP, NO_ROUTE.reason, 3.0),
        ("entered kernel", CALLER_RTP, "XDP or TC", 3.0),  # its ingress interface is unknown now
    }

    routes_lead(OTHER_ROUTE, 4)
    assert set(diary.take()) == {
        ("entered kernel", CALLEE_RTP, "XDP", 4.0),
        ("entered kernel", CALLER_RTP, "XDP", 4.0),
    }

    play.tick(61.9)
    assert diary.take() == []
    play.tick(62)
    assert diary.take() == [
        ("left kernel", CALLEE_RTP, "idle for 60 s", 62.0),
        ("left kernel", CALLER_RTP, "idle for 60 s", 62.0),
        ("timed out", 60.0, 62.0),
        ("ended", Ending.TIMED_OUT, 62.0),
    ]
    assert len(diary.sessions) == 1
    routes_lead(ROUTE, 63)
    assert diary.take() == []


def test_packets_that_teach_nothing_are_no_events(play, diary):
    play.call()
    start_talking(play)
    diary.take()
    for number in range(101, 110):
        play.packet(CALLEE, FACES_CALLEE, rtp(number), TO_CALLER)
    play.tick(1)
    play.ask("Q call f t")
    assert diary.take() == []


def test_rtcp_is_learned_apart(play, diary):
    play.call()
    diary.take()
    play.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, CALLER_RTCP))
    place = (Role.CALLEE, Component.RTCP)
    assert diary.take() == [("learned", place, CALLEE_RTCP, 0.0), ("entered kernel", place, "XDP", 0.0)]


def test_an_unlock_that_the_kernel_saw_is_told_when_it_is_read(diary):
    play = Scenario(observers=[diary])
    play.call()
    start_talking(play)
    diary.take()
    play.at(1)
    play.offload.forward(FACES_CALLEE, 1, play.now, ssrc=0, sequence=5)
    play.at(2)
    play.ask("Q call f t")
    assert diary.take() == [("learned", CALLEE_RTP, CALLEE, 2.0)]
    play.ask("Q call f t")
    assert diary.take() == []


def test_packets_that_come_to_another_address_of_ours_are_told(diary):
    play = Scenario(observers=[diary])
    play.call()
    start_talking(play)
    diary.take()
    for number in (101, 102):
        play.packet(CALLEE, FACES_CALLEE, rtp(number), TO_CALLER, local_host="10.0.0.2")
    assert diary.take() == [("learned", CALLEE_RTP, CALLEE, 0.0)]


def test_a_session_that_cannot_be_ended_has_not_timed_out(diary):
    """Else it would be told of every second."""
    target = parse_notify_target("unix:/run/c.sock")
    play = Scenario(observers=[diary], notify=(target,))
    play.ask("U call 10.0.1.2 4000 f /run/c.sock tag")
    diary.take()
    play.media.open_ports.clear()
    with pytest.raises(KeyError):
        play.tick(60)
    assert (diary.take(), play.notifier.told) == ([], [])


@pytest.mark.parametrize(
    ("command", "why", "reason"),
    [("D call f t", Ending.DELETED, "deleted"), ("X", Ending.ALL_DELETED, "all sessions deleted")],
)
def test_a_call_that_is_deleted(play, diary, command, why, reason):
    play.call()
    start_talking(play)
    diary.take()
    play.ask(command)
    assert diary.take() == [
        ("left kernel", CALLEE_RTP, reason, 0.0),
        ("left kernel", CALLER_RTP, reason, 0.0),
        ("ended", why, 0.0),
    ]


@pytest.mark.parametrize(
    "command",
    [
        "U call 10.0.1.2 4000 f t",
        "L call 10.0.2.2 5000 f t",
        "Uw call 10.0.1.2 4000 f t",
        "Q call f t && S ttl=5",
        "Q call f t && Dw",
    ],
)
def test_a_command_on_a_session_changes_it(diary, command):
    play = Scenario(observers=[diary])
    play.call()
    diary.take()
    play.at(7)
    play.ask(command)
    assert diary.take() == [("changed", 7.0)]


def test_each_subcommand_is_a_change(play, diary):
    play.ask("U call 10.0.1.2 4000 f t && L 10.0.2.2 5000 && S tos=8 && D")
    assert diary.take() == [
        ("created", 0.0),
        ("completed", 0.0),
        ("changed", 0.0),
        ("changed", 0.0),
        ("ended", Ending.DELETED, 0.0),
    ]


@pytest.mark.parametrize("command", ["L none 10.0.2.2 5000 f t", "D none f", "Q none f", "VF 1", "I", "Z"])
def test_a_command_without_a_session_is_no_event(play, diary, command):
    play.ask(command)
    assert diary.take() == []


def test_refused_sessions_are_no_events(diary):
    play = Scenario(observers=[diary], pairs=1)
    play.ask("U call 10.0.1.2 4000 f")
    diary.take()
    play.command("U call2 10.0.1.2 4000 f", "E72")
    play.command("L call 10.0.2.2 5000 f t", "E71")
    assert diary.take() == []


def test_session_is_whole_when_it_is_told(play):
    """At `created` it has tags and signalled endpoints, at `ended` all counters."""

    class Careful(Observer):
        def created(self, session, now):
            seen.append((session.call_id, session.from_tag, session.caller.rtp.latch.remote, session.is_strong))

        def ended(self, session, why, now):
            seen.append((session.is_complete, session.callee.rtp.received_packets, session.callee.rtp.local_port))

    seen = []
    play = Scenario(observers=[Careful()])
    play.call()
    start_talking(play)
    play.offload.forward(FACES_CALLEE, 5, play.now, ssrc=0x1234, sequence=105)
    play.ask("D call f")
    assert seen == [(b"call", b"f", CALLER, True), (True, 6, FACES_CALLEE)]


# Several observers


def test_observers_are_told_in_their_order():
    """The totals come first, so what an observer reads of them includes its event."""

    class Reader(Observer):
        def created(self, session, now):
            seen.append((self, play.service.totals().sessions_created))

    seen = []
    first, second = Reader(), Reader()
    play = Scenario(observers=[first, second])
    play.ask("U call 10.0.1.2 4000 f")
    assert seen == [(first, 1), (second, 1)]


def test_an_observer_that_fails_costs_nobody_anything(diary, caplog):
    """Its first failure is logged as an error, later ones at debug level."""

    class Broken(Observer):
        def created(self, session, now):
            raise ZeroDivisionError

        learned = left_kernel = entered_kernel = completed = changed = timed_out = ended = lambda self, *_: 1 / 0

    target = parse_notify_target("unix:/run/c.sock")
    play = Scenario(observers=[Broken(), diary], notify=(target,))
    with caplog.at_level(logging.DEBUG, logger="rtpproxy.service.events"):
        play.command("U call 10.0.1.2 4000 f /run/c.sock tag", "20000")
        play.command("L call 10.0.2.2 5000 f t", "20002")
        start_talking(play)
        play.command("U call 10.0.1.2 4000 f t /run/c.sock tag", "20000")
        play.tick(60)
    play.assert_nothing_is_left()
    assert play.notifier.told == [(target, "", b"tag")]
    assert [entry[0] for entry in diary.take()] == [
        *("created", "completed", "changed", "learned", "learned", "changed", "timed out", "ended"),
    ]
    failures = [record for record in caplog.records if record.name == "rtpproxy.service.events"]
    errors = [record for record in failures if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in errors] == ["observer Broken failed and missed an event"]
    assert failures[0].exc_info is not None
    assert len(failures) == 8
    assert {record.levelno for record in failures[1:]} == {logging.DEBUG}


def test_observers_that_are_equal_and_cannot_be_hashed_fail_each_for_itself(diary, caplog):
    @dataclass
    class Broken(Observer):
        name: str = ""

        def created(self, session, now):
            raise ZeroDivisionError

    play = Scenario(observers=[Broken(), Broken(), diary])
    with caplog.at_level(logging.DEBUG, logger="rtpproxy.service.events"):
        play.command("U call 10.0.1.2 4000 f", "20000")
        play.command("U call2 10.0.1.2 4000 f", "20002")
    assert [entry[0] for entry in diary.take()] == ["created", "created"]
    levels = [record.levelno for record in caplog.records if record.name == "rtpproxy.service.events"]
    assert levels == [logging.ERROR, logging.ERROR, logging.DEBUG, logging.DEBUG]
