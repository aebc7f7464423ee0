"""Ports as sockets, on the loopback interface."""

import asyncio
import logging
import socket
from collections import Counter
from contextlib import ExitStack

import pytest
import uvloop

from rtpproxy.addr import Endpoint
from rtpproxy.errors import PortBusyError
from rtpproxy.media.bound import BATCH, BoundMedia
from tests.fakes import Inbox

HOST = "127.0.0.1"
TOS = 0xB8
BROADCAST = Endpoint("255.255.255.255", 9)
"""Where no socket may send to unasked."""


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request):
    loop = request.param()
    yield loop
    loop.close()


@pytest.fixture
def inbox(loop):
    return Inbox(loop)


@pytest.fixture
def media(loop, inbox):
    media = BoundMedia(HOST, TOS, inbox.on_datagram, inbox.clock)
    media.start(loop)
    yield media
    media.close_all()


@pytest.fixture
def phone():
    with udp_socket() as phone:
        yield phone


def udp_socket(port=0):
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.settimeout(5.0)
    try:
        opened.bind((HOST, port))
    except OSError:
        opened.close()
        raise
    return opened


def free_pair():
    """An even port that is free together with the one above it."""
    for port in range(20000, 30000, 2):
        with ExitStack() as stack:
            try:
                stack.enter_context(udp_socket(port))
                stack.enter_context(udp_socket(port + 1))
            except OSError:
                continue
            return port
    raise AssertionError("no free pair of ports on this host")


def assert_free(port):
    udp_socket(port).close()


def test_datagrams_arrive_with_port_source_and_time(media, inbox, phone):
    port = free_pair()
    media.open(port)
    phone.sendto(b"media", (HOST, port))
    assert inbox.take() == [(port, b"media", phone.getsockname(), HOST, 1.0)]
    phone.sendto(b"report", (HOST, port + 1))
    (arrived,) = inbox.take()
    assert (arrived.port, arrived.data) == (port + 1, b"report")


@pytest.mark.parametrize("size", [0, 1, 12, 1472, 30_000, 65_507])
def test_any_size_arrives_and_leaves_whole(media, inbox, phone, size):
    port = free_pair()
    data = bytes(number % 251 for number in range(size))
    media.open(port)
    phone.sendto(data, (HOST, port))
    assert inbox.take()[0].data == data
    assert media.send(port, "", Endpoint(*phone.getsockname()), data)
    assert phone.recvfrom(65_535) == (data, (HOST, port))


def test_sends_from_each_port_of_the_pair_with_the_type_of_service(media, phone):
    phone.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    port = free_pair()
    media.open(port)
    for from_port in (port, port + 1):
        assert media.send(from_port, "203.0.113.1", Endpoint(*phone.getsockname()), b"x")
        data, ancillary, _, source = phone.recvmsg(100, 100)
        assert (data, source, ancillary[0][2]) == (b"x", (HOST, from_port), bytes([TOS]))
    assert media.send_failures == 0


@pytest.mark.parametrize("odd", [0, 1])
def test_port_of_another_program_is_busy_and_nothing_of_the_pair_is_taken(media, odd):
    port = free_pair()
    with udp_socket(port + odd):
        with pytest.raises(PortBusyError, match=f"port {port + odd}: Address already in use"):
            media.open(port)
        assert_free(port + 1 - odd)
    media.open(port)


def test_address_that_is_not_ours_is_no_busy_port(loop, inbox):
    media = BoundMedia("192.0.2.250", TOS, inbox.on_datagram, inbox.clock)
    media.start(loop)
    with pytest.raises(OSError, match="Cannot assign requested address"):
        media.open(20000)
    media.close_all()


def test_closed_pair_is_free_and_silent(media, inbox, phone):
    port, other = free_pair(), None
    media.open(port)
    other = free_pair()
    media.open(other)
    media.close(port)
    for number in (port, port + 1):
        assert_free(number)
        phone.sendto(b"late", (HOST, number))
    phone.sendto(b"media", (HOST, other))
    assert [arrived.data for arrived in inbox.take()] == [b"media"]


def test_close_all(media):
    ports = []
    for _ in range(3):
        ports.append(free_pair())
        media.open(ports[-1])
    media.close_all()
    for port in ports:
        assert_free(port)
        assert_free(port + 1)


def test_one_socket_does_not_keep_the_others_waiting(media, inbox, phone):
    port = free_pair()
    media.open(port)
    for number in range(BATCH + 8):
        phone.sendto(bytes([number]), (HOST, port))
    arrived = inbox.take(BATCH + 8)
    assert [one.data[0] for one in arrived] == list(range(BATCH + 8))
    # The clock is read once a batch.
    assert list(Counter(one.now for one in arrived).values()) == [BATCH, 8]


def test_pair_may_be_closed_by_what_arrives(media, inbox, phone, caplog):
    """As by a command that is executed meanwhile; what waits in the socket is gone with it."""
    caplog.set_level(logging.DEBUG, "rtpproxy")
    port = free_pair()
    media.open(port)
    inbox.on_arrival = lambda: media.close(port)
    for _ in range(3):
        phone.sendto(b"x", (HOST, port))
    assert len(inbox.take()) == 1
    inbox.turn()
    assert inbox.arrived == []
    assert caplog.records == []
    assert_free(port)


def test_failure_to_send_is_counted_and_logged_ever_more_rarely(media, phone, caplog):
    port = free_pair()
    media.open(port)
    for _ in range(9):
        assert not media.send(port, "", BROADCAST, b"x")
    assert media.send_failures == 9
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        f"cannot send to 255.255.255.255:9: Permission denied ({number} failures so far)" for number in (1, 2, 4, 8)
    ]
    assert media.send(port, "", Endpoint(*phone.getsockname()), b"x")


def test_peer_that_is_gone_does_no_harm(media, inbox, phone):
    """Its host answers with ICMP, which must not end the reading."""
    port = free_pair()
    media.open(port)
    with udp_socket() as gone:
        address = gone.getsockname()
    for _ in range(3):
        media.send(port, "", Endpoint(*address), b"x")
    phone.sendto(b"media", (HOST, port))
    assert inbox.take()[0].data == b"media"


def test_changed_routes_are_nothing_to_it(media):
    media.routes_changed()
