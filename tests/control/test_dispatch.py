"""Texts in, texts out: which call each command makes, and which number each error gets (protocol.md 3.3)."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.control.dispatch import Dispatcher
from rtpproxy.control.messages import Delete, PortLine
from rtpproxy.errors import LocalAddressError, NoPortsError, SessionNotFoundError, StoppingError
from tests.control.fake_service import FakeService

OFFER = b"U c 192.0.2.1 5000 f"
ANSWER = b"L c 192.0.2.1 5000 f t"


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def dispatcher(service: FakeService) -> Dispatcher:
    return Dispatcher(service)


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (b"V\n", b"20040107\n"),
        (b"VF 20080403", b"1\n"),
        (b"VF 20071116", b"0\n"),
        (b"VF \xff", b"0\n"),
        (OFFER, b"35000 192.0.2.1\n"),
        (ANSWER, b"35002 192.0.2.1\n"),
        (b"D c f t", b"0\n"),
        (b"X", b"0\n"),
        (b"Q c f", b"60 1 2 3 4\n"),
        (b"Qv c f t ttl", b"ttl=60\n"),
        (b"Qx c f t bogus", b"E19\n"),
        (b"Q c f t bogus", b"E62\n"),
        (b"Z", b"E0\n"),
        (b"", b"E5\n"),
    ],
)
def test_replies(dispatcher: Dispatcher, text: bytes, reply: bytes) -> None:
    assert dispatcher.execute(text, 0.0) == reply


def test_info_has_five_lines_or_six(dispatcher: Dispatcher) -> None:
    assert dispatcher.execute(b"I", 0.0).count(b"\n") == 5
    assert dispatcher.execute(b"Il", 0.0).endswith(b"packets transmitted: 0\naverage load: 0.000000\n")


def test_passes_command_and_time(dispatcher: Dispatcher, service: FakeService) -> None:
    dispatcher.execute(b"Dw c f t", 12.5)
    assert service.calls == [(Delete(b"c", b"f", b"t", is_weak=True), 12.5)]


def test_lookup_of_unknown_session_is_no_error(dispatcher: Dispatcher, service: FakeService) -> None:
    service.found = None
    assert dispatcher.execute(ANSWER, 0.0) == b"0\n"


def test_port_without_address(dispatcher: Dispatcher, service: FakeService) -> None:
    service.found = PortLine(35002)
    assert dispatcher.execute(ANSWER, 0.0) == b"35002\n"


@pytest.mark.parametrize(
    ("text", "error", "reply"),
    [
        (b"D c f", SessionNotFoundError("no such session"), b"E50\n"),
        (b"Qx c f", SessionNotFoundError("no such session"), b"E50\n"),
        (OFFER, NoPortsError("none left", is_new_session=True), b"E72\n"),
        (OFFER, NoPortsError("none left"), b"E71\n"),
        (ANSWER, NoPortsError("none left"), b"E71\n"),
        (OFFER, StoppingError("stopping"), b"E99\n"),
        (OFFER, LocalAddressError("not ours"), b"E31\n"),
        (OFFER, LocalAddressError("no route", is_routed=True), b"E32\n"),
    ],
)
def test_errors(dispatcher: Dispatcher, service: FakeService, text: bytes, error: Exception, reply: bytes) -> None:
    service.error = error
    assert dispatcher.execute(text, 0.0) == reply


def test_notification_is_refused_before_anything_is_done(dispatcher: Dispatcher, service: FakeService) -> None:
    assert dispatcher.execute(b"U c 127.0.0.1 5 f t ns tag", 0.0) == b"E75\n"
    assert service.calls == []


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


ALMOST_COMMANDS = st.lists(
    st.sampled_from([b"U", b"L", b"Q", b"D", b"VF", b"I", b"&&", b" ", b"\n", b"127.0.0.1", b"5", b"l[", b"c0", b"\0"])
    | st.binary(max_size=12),
    max_size=40,
).map(b" ".join)


@given(text=st.binary(max_size=300) | ALMOST_COMMANDS | st.binary().map(lambda tail: b"U%s c 127.0.0.1 5 f" % tail))
def test_any_bytes_get_one_reply(text: bytes) -> None:
    reply = Dispatcher(FakeService()).execute(text, 0.0)
    lines = reply.split(b"\n")
    assert lines[-1] == b""
    assert all(lines[:-1])
    assert len(lines) == 2 or reply.startswith(b"sessions created: ")
