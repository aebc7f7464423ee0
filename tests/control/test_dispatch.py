"""Texts in, texts out: the service call that each command makes, and its reply (protocol.md 2.6, 3.3, 11.4)."""

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.addr import Endpoint
from rtpproxy.config import ListenAddress
from rtpproxy.control.dispatch import Dispatcher
from rtpproxy.control.messages import SUPPORTED_EXTENSIONS
from rtpproxy.control.parser import Parser
from rtpproxy.errors import (
    ModuleError,
    NoCodecsError,
    NoPortsError,
    NotificationOffError,
    OverloadError,
    PlaybackError,
    RecordingError,
    SessionNotFoundError,
    StoppingError,
)
from rtpproxy.service.requests import (
    CopyTo,
    Delete,
    DropReference,
    MediaDescription,
    Play,
    Query,
    Record,
    RecordAs,
    SetTimeout,
    SetTos,
    StopPlaying,
    StopRecording,
    Update,
)
from rtpproxy.session.local import LocalAddresses
from rtpproxy.session.session import Role
from tests.control.fake_service import FakeService

OFFER = b"U c 192.0.2.1 5000 f"
OFFER_TO = OFFER + b" t"
ANSWER = b"L c 192.0.2.1 5000 f t"
MEDIA = MediaDescription(Endpoint("192.0.2.1", 5000))
C, ELSEWHERE = Query(b"c", b"f", None), Endpoint("192.0.2.9", 5)
LOCALS = LocalAddresses((ListenAddress(),), False, {}.get)
PARSER = Parser(LOCALS)
COUNTS = b"Gv ncmds_rcvd ncmds_rcvd_ndups ncmds_succd ncmds_errs ncmds_repld"


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def dispatcher(service: FakeService) -> Dispatcher:
    return Dispatcher(service, PARSER)


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (b"V\n", b"20040107\n"),
        (b"VF 20080403", b"1\n"),
        (b"VF 20071116", b"1\n"),
        (b"VF 20170313", b"0\n"),
        (b"VF \xff", b"0\n"),
        (OFFER, b"35000 192.0.2.1\n"),
        (ANSWER, b"35002 192.0.2.1\n"),
        (b"D c f t", b"0\n"),
        (b"X", b"0\n"),
        (b"Q c f", b"60 1 2 3 4\n"),
        (b"Qv c f t ttl", b"ttl=60\n"),
        (b"Qx c f t bogus", b"E19\n"),
        (b"Q c f t bogus", b"E62\n"),
        (b"G", b"\n"),
        (b"Gv", b"\n"),
        (b"G nsess_created pps_in", b"1 0.000000\n"),
        (b"Gv nsess_created", b"nsess_created=1\n"),
        (b"G nsess_created bogus", b"E68\n"),
        (b"Z", b"E0\n"),
        (b"", b"E5\n"),
    ],
)
def test_replies(dispatcher: Dispatcher, text: bytes, reply: bytes) -> None:
    assert dispatcher.execute(text, 0.0) == reply


def test_info_has_five_lines_or_six(dispatcher: Dispatcher) -> None:
    assert dispatcher.execute(b"I", 0.0).count(b"\n") == 5
    assert dispatcher.execute(b"Il", 0.0).endswith(b"packets transmitted: 0\naverage load: 0.000000\n")


def test_info_with_tiers(dispatcher: Dispatcher) -> None:
    """They follow the usual lines; at most 20 reasons are listed, the most frequent first."""
    usual = dispatcher.execute(b"I", 0.0)
    lines = dispatcher.execute(b"It", 0.0).removeprefix(usual).decode().splitlines()
    assert lines[:4] == [
        "streams by XDP: 3",
        "streams by TC: 1",
        "streams by userspace: 27",
        "userspace, it is link-local: 2",
    ]
    assert lines[4:23] == [f"userspace, reason {number:02}: 1" for number in range(19)]
    assert lines[23:] == [
        *("userspace, other reasons: 6", "frames up_no_entry: 7", "recording files_open: 4", "overload times: 1"),
    ]


@pytest.mark.parametrize("date", SUPPORTED_EXTENSIONS)
def test_notification_is_supported_where_there_are_targets(service: FakeService, date: bytes) -> None:
    probe = b"VF " + date
    assert Dispatcher(service, PARSER).execute(probe, 0.0) == (b"0\n" if date == b"20081224" else b"1\n")
    service.has_notification = True
    assert Dispatcher(service, PARSER).execute(probe, 0.0) == b"1\n"


def test_passes_command_controller_and_time(dispatcher: Dispatcher, service: FakeService) -> None:
    dispatcher.execute(b"Dw c f t", 12.5)
    dispatcher.execute(OFFER, 13.5, "198.51.100.5")
    dispatcher.execute(OFFER, 14.5)
    update = Update(b"c", b"f", None, MEDIA)
    assert service.calls == [
        ("delete", Delete(b"c", b"f", b"t", is_weak=True), 12.5),
        ("update", update, "198.51.100.5", 13.5),
        ("update", update, "", 14.5),
    ]


def test_lookup_of_unknown_session_is_zero(dispatcher: Dispatcher, service: FakeService) -> None:
    service.is_known = False
    assert dispatcher.execute(ANSWER, 0.0) == b"0\n"
    assert dispatcher.execute(ANSWER + b" && S ttl=3", 0.0) == b"0\n"
    assert [call[0] for call in service.calls] == ["lookup", "lookup"]


@pytest.mark.parametrize(
    ("text", "error", "reply"),
    [
        (b"D c f", SessionNotFoundError("no such session"), b"E50\n"),
        (b"Q c f", SessionNotFoundError("no such session"), b"E50\n"),
        (b"Qx c f", SessionNotFoundError("no such session"), b"E50\n"),
        (b"Q c f t bogus", SessionNotFoundError("no such session"), b"E50\n"),
        (OFFER, NoPortsError("none left", is_new_session=True), b"E72\n"),
        (OFFER, NoPortsError("none left"), b"E71\n"),
        (ANSWER, NoPortsError("none left"), b"E71\n"),
        (OFFER, NotificationOffError("no -n"), b"E75\n"),
        (OFFER, OverloadError("no time"), b"E98\n"),
        (OFFER, StoppingError("stopping"), b"E99\n"),
    ],
)
def test_errors(dispatcher: Dispatcher, service: FakeService, text: bytes, error: Exception, reply: bytes) -> None:
    service.error = error
    assert dispatcher.execute(text, 0.0) == reply
    assert dispatcher.execute(text + b" && D" * (text[:1] != b"D"), 0.0) == reply, "no sub-command runs"
    assert len(service.calls) == 2


# Prompts


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (b"P c /x 0,8 f", ("play", Play(C, b"/x", (0, 8), 1), 5.0)),
        (b"P-1 c /x session f", ("play", Play(C, b"/x", None, None), 5.0)),
        (b"P0 c /x 0 f", ("stop_playing", StopPlaying(C), 5.0)),
        (b"S c f", ("stop_playing", StopPlaying(C), 5.0)),
    ],
)
def test_playing(dispatcher: Dispatcher, service: FakeService, text: bytes, asked: tuple[object, ...]) -> None:
    assert dispatcher.execute(text, 5.0) == b"0\n"
    assert service.calls == [asked]
    service.error = SessionNotFoundError("no such session")
    assert dispatcher.execute(text, 5.0) == b"E50\n"


@pytest.mark.parametrize(
    ("text", "error", "reply"),
    [
        (b"P c /x 0,8 f", PlaybackError("no such file"), b"E60\n"),
        (b"P c /x session f", NoCodecsError("no codecs"), b"E35\n"),
        (b"P c /x abc f", None, b"E60\n"),
        (b"P c /x abc f", SessionNotFoundError("no such session"), b"E50\n"),
        (b"Px c /x 0 f", None, b"E17\n"),
    ],
)
def test_playing_is_refused(service: FakeService, text: bytes, error: Exception | None, reply: bytes) -> None:
    service.error = error
    assert Dispatcher(service, PARSER).execute(text, 0.0) == reply


# Recording and copying


@pytest.mark.parametrize(
    ("text", "asked", "reply", "failed"),
    [
        (b"R c f t", ("record", Record(b"c", b"f", b"t", is_single=False), 5.0), b"0\n", b"E50\n"),
        (b"C c name f", ("record_as", RecordAs(C, b"name", False), 5.0), b"0\n", b"E65\n"),
        (b"C c udp:192.0.2.9:5 f", ("copy_to", CopyTo(C, ELSEWHERE, False), 5.0), b"0\n", b"E65\n"),
        (b"Cp c udp:192.0.2.9:5 f", ("copy_to", CopyTo(C, ELSEWHERE, True), 5.0), b"35006 192.0.2.1\n", b"E65\n"),
    ],
)
def test_recording(
    dispatcher: Dispatcher, service: FakeService, text: bytes, asked: tuple[object, ...], reply: bytes, failed: bytes
) -> None:
    assert dispatcher.execute(text, 5.0) == reply
    assert service.calls == [asked]
    service.error = RecordingError("the disk is full")
    assert dispatcher.execute(text, 0.0) == failed
    service.error = SessionNotFoundError("no such session")
    assert dispatcher.execute(text, 0.0) == b"E50\n"


@pytest.mark.parametrize(("text", "is_both"), [(b"N c f t", False), (b"NA c f t", True)])
def test_stopping(dispatcher: Dispatcher, service: FakeService, text: bytes, is_both: bool) -> None:
    assert dispatcher.execute(text, 5.0) == b"0\n"
    assert service.calls == [("stop_recording", StopRecording(b"c", b"f", b"t", is_both), 5.0)]
    service.error = SessionNotFoundError("nothing is recorded")
    assert dispatcher.execute(text, 5.0) == b"E50\n"


@pytest.mark.parametrize("text", [b"C c udp:somewhere:5 f t", b"Cp c name f t"])
def test_a_target_that_cannot_be_copied_to(dispatcher: Dispatcher, service: FakeService, text: bytes) -> None:
    """The session is looked up first."""
    assert dispatcher.execute(text, 0.0) == b"E65\n"
    service.error = SessionNotFoundError("no such session")
    assert dispatcher.execute(text, 0.0) == b"E50\n"


# Sub-commands (2.6)


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (OFFER_TO + b" && L 192.0.2.1 5000", b"35000 192.0.2.1 && 35004 192.0.2.1\n"),
        (OFFER_TO + b" && S ttl=30", b"35000 192.0.2.1\n"),
        (OFFER_TO + b" && S ttl=30 && S tos=8 && D", b"35000 192.0.2.1\n"),
        (OFFER_TO + b" && S ttl=30 && L 192.0.2.1 5000", b"35000 192.0.2.1 && 0 && 35004 192.0.2.1\n"),
        (OFFER_TO + b" && L 192.0.2.1 5000 && S ttl=30", b"35000 192.0.2.1 && 35004 192.0.2.1\n"),
        (OFFER_TO + b" && C other f t && L 192.0.2.1 5000", b"35000 192.0.2.1 && 0 && 35004 192.0.2.1\n"),
        (OFFER_TO + b" && C other f t", b"35000 192.0.2.1\n"),
        (ANSWER + b" && D", b"35002 192.0.2.1\n"),
        (b"Q c f && D", b"60 1 2 3 4\n"),
        (b"Qv c f t ttl && S ttl=3", b"ttl=60\n"),
        (OFFER_TO + b" && S ttl=30 && Z", b"E3\n"),
        (b"Q c f t bogus && D", b"E62\n"),
        (b"Qx c f && D", b"E19\n"),
    ],
)
def test_results(dispatcher: Dispatcher, text: bytes, reply: bytes) -> None:
    assert dispatcher.execute(text, 0.0) == reply


def names_of(service: FakeService) -> list[str]:
    return [call[0] for call in service.calls]


@pytest.mark.parametrize("text", [OFFER_TO + b" && D && Z", OFFER_TO + b" && D && L 192.0.2.1"])
def test_a_subcommand_that_cannot_be_read_stops_everything(
    dispatcher: Dispatcher, service: FakeService, text: bytes
) -> None:
    assert dispatcher.execute(text, 0.0) == b"E3\n"
    assert service.calls == []


@pytest.mark.parametrize("text", [b"Q c f t bogus && D", b"Qx c f t && D"])
def test_a_query_that_is_refused_runs_no_subcommand(dispatcher: Dispatcher, service: FakeService, text: bytes) -> None:
    dispatcher.execute(text, 0.0)
    assert "drop" not in names_of(service)


@pytest.mark.parametrize(
    ("error", "failing"),
    [
        (SessionNotFoundError("the session has ended"), "set_tos"),
        (NoPortsError("none left"), "answer"),
        (SessionNotFoundError("the session has ended"), "answer"),
        (RecordingError("it is its own source"), "feed"),
        (SessionNotFoundError("no such session"), "feed"),
    ],
)
def test_the_first_that_fails_ends_the_list(
    dispatcher: Dispatcher,
    service: FakeService,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    failing: str,
) -> None:
    service.error, service.failing = error, failing
    asked = {"set_tos": b"S tos=8", "answer": b"L 192.0.2.1 5000", "feed": b"C other f t"}[failing]
    reply = dispatcher.execute(OFFER_TO + b" && S ttl=5 && " + asked + b" && D && S ttl=6", 0.0)
    assert reply == b"35000 192.0.2.1 && 0 && -1\n"
    assert names_of(service) == ["update", "set_timeout", failing]
    assert caplog.messages == [f"call: sub-command failed: {error}"]


def test_subcommands_speak_for_the_issuer(dispatcher: Dispatcher, service: FakeService) -> None:
    """In the fake, the caller issues `U` and `Q`, the callee `L`; after `&& L` it is the other leg."""
    dispatcher.execute(
        OFFER_TO + b" && S ttl=5 && L 192.0.2.1 5000 && Sr tos=6 && D && L 192.0.2.1 5000 && S tos=7", 9.0
    )
    dispatcher.execute(ANSWER + b" && S ttl=8", 10.0)
    dispatcher.execute(b"Q c f && Dw", 11.0)
    session = service.issuer.session
    told = [(call[0], call[1].role, *call[2:]) for call in service.calls if call[0] not in ("update", "lookup", "find")]
    assert all(call[1].session is session for call in service.calls if call[0] in ("answer", "set_tos", "drop"))
    assert told == [
        ("set_timeout", Role.CALLER, SetTimeout(5, is_reverse=False), 9.0),
        ("answer", Role.CALLER, MEDIA, 9.0),
        ("set_tos", Role.CALLEE, SetTos(6, is_reverse=True), 9.0),
        ("drop", Role.CALLEE, DropReference(is_weak=False), 9.0),
        ("answer", Role.CALLEE, MEDIA, 9.0),
        ("set_tos", Role.CALLER, SetTos(7, is_reverse=False), 9.0),
        ("set_timeout", Role.CALLEE, SetTimeout(8, is_reverse=False), 10.0),
        ("query", Role.CALLER, 11.0),
        ("drop", Role.CALLER, DropReference(is_weak=True), 11.0),
    ]


# Counting (11.4)


def test_commands_are_counted_as_in_the_example(dispatcher: Dispatcher) -> None:
    for text in (b"V", b"V", b"V", b"", b"", b"Zz"):
        dispatcher.execute(text, 0.0)
    dispatcher.count_repeated()
    dispatcher.execute(OFFER, 0.0)
    dispatcher.count_repeated()
    dispatcher.count_repeated()
    dispatcher.execute(b"V\nm2 V\n", 0.0)
    reply = dispatcher.execute(COUNTS, 0.0)
    assert reply == b"ncmds_rcvd=9 ncmds_rcvd_ndups=3 ncmds_succd=4 ncmds_errs=4 ncmds_repld=8\n"
    reply = dispatcher.execute(COUNTS, 0.0)
    assert reply == b"ncmds_rcvd=10 ncmds_rcvd_ndups=3 ncmds_succd=5 ncmds_errs=4 ncmds_repld=9\n"


@pytest.mark.parametrize(
    ("text", "is_error"),
    [
        (b"V", False),
        (b"VF 0", False),
        (b"S c f", False),
        (OFFER_TO + b" && C other f t", False),
        (ANSWER, True),
        (b"D c f && D", True),
        (b"R c f", False),
        (b"Cp c name f", True),
        (b"P c p abc f", True),
        (b"G bogus", True),
    ],
)
def test_outcome_is_counted(dispatcher: Dispatcher, service: FakeService, text: bytes, is_error: bool) -> None:
    """An `L` that is answered 0 counts as an error, a sub-command that fails does not."""
    service.is_known = False
    dispatcher.execute(text, 0.0)
    assert dispatcher.execute(COUNTS, 0.0) == (
        b"ncmds_rcvd=2 ncmds_rcvd_ndups=0 ncmds_succd=%d ncmds_errs=%d ncmds_repld=1\n" % (not is_error, is_error)
    )


def test_logs_both_ways_on_one_line(dispatcher: Dispatcher, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="rtpproxy"):
        dispatcher.execute(b"VF a\x1bb\n", 0.0)
        dispatcher.execute(b"D a\nb\n", 0.0)
    assert caplog.messages == [
        'received command "VF a\\x1bb"',
        'sending reply "0"',
        'received command "D a\\nb"',
        'sending reply "0"',
    ]


REFUSALS = {
    b"C c udp:here:5 f t": "E65: udp:here:5 is not udp:HOST:PORT with a numeric host and a port from 1 to 65535",
    b"Cp c name f t": "E65: p is for copies to udp:HOST:PORT",
    b"P c /x abc f t": "E60: abc is no list of payload types",
    b"Z\n": "E0: unknown command Z",
    b"": "E5: empty",
    b"\0": "E5: a zero byte",
    b" ".join([b"Q"] * 24): "E5: more than 23 words",
    b"X x": "E1: arguments: 1; expected: 0",
    b"D c": "E1: arguments: 1; expected: 2 to 3",
    b"Vx": "E2: the command has no modifiers",
    b"D c f && D": "E3: no sub-command may follow",
    OFFER_TO + b" && L localhost.local 5000": "E3: sub-command L: localhost.local 5000 is no IPv4 address and port",
    OFFER_TO + b" && M4:\x1b": "E3: no sub-command M4:\\x1b after this command",
    b"Ue c 192.0.2.1 5000 f": "E11: e and i are for bridge mode",
    b"U6 c 2001:db8::1 5000 f": "E36: the relay has no IPv6 address",
    b"Uz0 c 192.0.2.1 5000 f": "E13: z without a packet length from 1 to 999 ms",
    b"Uy c 192.0.2.1 5000 f": "E35: unknown modifier y",
    b"Ul c 192.0.2.1 5000 f": "E15: l without an address",
    b"Ul{two} c 192.0.2.1 5000 f": "E31: no listen address has the label two",
    b"Ur192.0.2.2 c 192.0.2.1 5000 f": "E32: r: this host has no route to 192.0.2.2",
    b"U c 2001:db8::1 5000 f": "E37: 2001:db8::1 5000 is no IPv4 address and port",
    b"Q c f t bogus": "E62: no counter bogus",
    b"G bogus": "E68: no counter bogus",
}


@pytest.mark.parametrize(("text", "why"), REFUSALS.items())
def test_a_refusal_is_one_line_with_the_reason(
    dispatcher: Dispatcher, caplog: pytest.LogCaptureFixture, text: bytes, why: str
) -> None:
    with caplog.at_level(logging.INFO, logger="rtpproxy"):
        dispatcher.execute(text, 0.0, "192.0.2.9")
        dispatcher.execute(b"V", 0.0)
    shown = repr(text.strip())[2:-1]
    assert caplog.messages == [f'command "{shown}" of 192.0.2.9 refused with {why}']
    assert {record.levelname for record in caplog.records} == {"INFO"}


@pytest.mark.parametrize(
    ("text", "error", "reply"),
    [
        (b"D c f", SessionNotFoundError("no such session"), "E50"),
        (OFFER, NoPortsError("none left", is_new_session=True), "E72"),
        (OFFER, NotificationOffError("no -n"), "E75"),
        (OFFER, StoppingError("stopping"), "E99"),
    ],
)
def test_what_the_service_refuses_is_logged(
    dispatcher: Dispatcher,
    service: FakeService,
    caplog: pytest.LogCaptureFixture,
    text: bytes,
    error: Exception,
    reply: str,
) -> None:
    service.error = error
    with caplog.at_level(logging.INFO, logger="rtpproxy"):
        dispatcher.execute(text, 0.0)
    assert caplog.messages == [f'command "{text.decode()}" refused with {reply}: {error}']


def test_an_answer_without_a_session_is_logged(
    dispatcher: Dispatcher, service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    """Its reply is no error code, but means one."""
    service.is_known = False
    with caplog.at_level(logging.INFO, logger="rtpproxy"):
        dispatcher.execute(ANSWER, 0.0)
    assert caplog.messages == [f'command "{ANSWER.decode()}" refused with 0: no such session']


class FakeModules:
    """Module 3 runs, and answers as it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answer: bytes | Exception = b""

    def has(self, number: int, instance: int) -> bool:
        return (number, instance) == (3, 1)

    def run(self, *arguments: Any) -> bytes:
        self.calls.append(arguments)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("command", [OFFER, ANSWER, b"Q c f t"])
@pytest.mark.parametrize(
    ("answer", "result", "is_last"),
    [
        (b"", b" && 0 && 35004 192.0.2.1", False),
        (b"text of it", b" && text of it && 35004 192.0.2.1", False),
        (ModuleError("not so"), b" && -1", True),
        (SessionNotFoundError("gone"), b" && -1", True),
    ],
)
def test_a_module_is_handed_its_command(
    service: FakeService, command: bytes, answer: bytes | Exception, result: bytes, is_last: bool
) -> None:
    modules = FakeModules()
    modules.answer = answer
    dispatcher = Dispatcher(service, Parser(LOCALS, modules), modules)
    main = dispatcher.execute(command, 5.0)
    issuer = service.issuer.peer if command is ANSWER else service.issuer
    reply = dispatcher.execute(command + b" && M3:1 a b", 5.0)
    assert modules.calls == [(3, 1, (b"a", b"b"), issuer, 5.0)]
    shown = b"" if answer == b"" else result.removesuffix(b" && 35004 192.0.2.1")
    assert reply == main[:-1] + shown + b"\n"
    if command is OFFER:
        with_answer = dispatcher.execute(OFFER_TO + b" && M3:1 a && L 192.0.2.1 5000", 5.0)
        assert with_answer == main[:-1] + result + b"\n"
        assert (service.calls[-1][0] == "answer") is not is_last


def test_nothing_is_done_for_a_module_that_does_not_run(dispatcher: Dispatcher, service: FakeService) -> None:
    assert dispatcher.execute(OFFER + b" && M3:1 D", 0.0) == b"E3\n"
    assert service.calls == []


ALMOST_COMMANDS = st.lists(
    st.sampled_from([b"U", b"L", b"Q", b"D", b"VF", b"I", b"&&", b" ", b"\n", b"127.0.0.1", b"5", b"l[", b"c0", b"\0"])
    | st.binary(max_size=12),
    max_size=40,
).map(b" ".join)


@given(text=st.binary(max_size=300) | ALMOST_COMMANDS | st.binary().map(lambda tail: b"U%s c 127.0.0.1 5 f" % tail))
def test_any_bytes_get_one_reply(text: bytes) -> None:
    reply = Dispatcher(FakeService(), PARSER).execute(text, 0.0)
    lines = reply.split(b"\n")
    assert lines[-1] == b""
    assert all(lines[:-1]) or text.split()[0].lower() in (b"g", b"gv")
    assert len(lines) == 2 or reply.startswith(b"sessions created: ")
