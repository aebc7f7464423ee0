"""Ports as sockets, on the loopback interface."""

import asyncio
import logging
import socket
import time
from collections import Counter
from contextlib import ExitStack

import pytest
import uvloop

from rtpproxy.addr import Endpoint
from rtpproxy.errors import PortBusyError
from rtpproxy.media.age_limit import AgeLimit
from rtpproxy.media.bound import BATCH, TURNS, BoundMedia
from rtpproxy.session.latch import Latch
from rtpproxy.session.local import LocalAddress
from rtpproxy.session.session import Component, Stream
from tests.fakes import Inbox, ShiftedClocks, no_limit
from tests.media.stamping import wait_for_stamps
from tests.ports import free_port
from tests.waiting import DEADLINE_S, wait_for

IPV4 = LocalAddress(0, "127.0.0.1")
IPV6 = LocalAddress(1, "::1", is_ipv6=True)
BOTH = [IPV4, IPV6]
TOS = 0xB8
BROADCAST = Endpoint("255.255.255.255", 9)
"""A broadcast address, which no socket may send to without having asked for it."""


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
    media = BoundMedia(loop, TOS, inbox.on_datagram, no_limit(inbox.clock))
    yield media
    media.close_all()


@pytest.fixture(params=BOTH, ids=lambda local: local.host)
def local(request):
    return request.param


@pytest.fixture
def phone(local):
    with udp_socket(local) as phone:
        yield phone


def udp_socket(local, port=0):
    opened = socket.socket(socket.AF_INET6 if local.is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    opened.settimeout(DEADLINE_S)
    if local.is_ipv6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        opened.bind((local.host, port))
    except OSError:
        opened.close()
        raise
    return opened


def free_pair(*locals_):
    """An even port that is free on these addresses, as is the one above it."""
    for _ in range(1000):
        port = free_port("127.0.0.1")
        if port % 2:
            continue
        with ExitStack() as stack:
            try:
                for local in locals_ or BOTH:
                    stack.enter_context(udp_socket(local, port))
                    stack.enter_context(udp_socket(local, port + 1))
            except OSError:
                continue
            return port
    raise AssertionError("no free pair of ports on this host")


def stream_at(local, port, tos=TOS):
    stream = Stream(Component(port % 2), local, Latch(), tos=tos)
    stream.settle(local, port, 0.0)
    return stream


def endpoint(opened):
    return Endpoint(*opened.getsockname()[:2])


def assert_free(local, port):
    udp_socket(local, port).close()


def test_datagrams_arrive_with_port_source_and_time(media, inbox, local, phone):
    port = free_pair()
    media.open(local, port)
    phone.sendto(b"media", (local.host, port))
    assert inbox.take() == [(local.key(port), b"media", endpoint(phone), local.host, inbox.now)]
    phone.sendto(b"report", (local.host, port + 1))
    (arrived,) = inbox.take()
    assert (arrived.key, arrived.data) == (local.key(port + 1), b"report")


@pytest.mark.parametrize("size", [0, 1, 12, 1472, 30_000, 65_507])
def test_any_size_arrives_and_leaves_whole(media, inbox, local, phone, size):
    port = free_pair()
    data = bytes(number % 251 for number in range(size))
    media.open(local, port)
    phone.sendto(data, (local.host, port))
    assert inbox.take()[0].data == data
    assert media.send(stream_at(local, port), "", endpoint(phone), data)
    arrived, source = phone.recvfrom(65_535)
    assert (arrived, source[:2]) == (data, (local.host, port))


def received_tos(phone):
    """Payload, source, and TOS byte or traffic class of the next datagram."""
    data, ancillary, _, source = phone.recvmsg(100, 100)
    return data, source[:2], int.from_bytes(ancillary[0][2], "little")


def test_sends_from_each_port_of_the_pair_with_the_type_of_service_of_the_stream(media):
    port = free_pair()
    media.open(IPV4, port)
    with udp_socket(IPV4) as phone:
        phone.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        rtp, rtcp = stream_at(IPV4, port), stream_at(IPV4, port + 1)
        for rtp_tos in (TOS, 0x28, 0x28, 0, TOS):  # as `tos=` of a command changes it
            rtp.tos = rtp_tos
            for stream, tos in ((rtp, rtp_tos), (rtcp, TOS)):
                assert media.send(stream, "203.0.113.1", endpoint(phone), b"x")
                assert received_tos(phone) == (b"x", (IPV4.host, stream.local_port), tos)
    assert media.send_failures.total == 0


def test_type_of_service_does_not_outlive_the_stream(media):
    port = free_pair()
    with udp_socket(IPV4) as phone:
        phone.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        for tos in (0x28, TOS):
            media.open(IPV4, port)
            assert media.send(stream_at(IPV4, port, tos), "", endpoint(phone), b"x")
            assert received_tos(phone)[2] == tos
            media.close(IPV4, port)


def test_traffic_class_on_ipv6(media):
    port = free_pair()
    media.open(IPV6, port)
    with udp_socket(IPV6) as phone:
        phone.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        for tos in (TOS, 0x28):
            assert media.send(stream_at(IPV6, port, tos), "", endpoint(phone), b"x")
            assert received_tos(phone) == (b"x", (IPV6.host, port), tos)


@pytest.mark.parametrize("odd", [0, 1])
def test_port_of_another_program_is_busy_and_nothing_of_the_pair_is_taken(media, local, odd):
    port = free_pair()
    with udp_socket(local, port + odd):
        with pytest.raises(PortBusyError, match=f"port {port + odd}: Address already in use"):
            media.open(local, port)
        assert_free(local, port + 1 - odd)
    media.open(local, port)


@pytest.mark.parametrize("foreign", [LocalAddress(0, "192.0.2.250"), LocalAddress(0, "2001:db8::1", is_ipv6=True)])
def test_address_that_is_not_ours_is_no_busy_port(media, foreign):
    with pytest.raises(OSError, match="Cannot assign requested address"):
        media.open(foreign, 20000)
    with pytest.raises(OSError, match="Cannot assign requested address"):
        media.add_local(foreign)


def test_address_of_ours_may_be_added(media, local):
    media.add_local(local)


def test_same_number_on_several_addresses_is_several_ports(media, inbox):
    """IPv6 sockets take no IPv4, so even both wildcards can have the same port."""
    locals_ = [IPV4, IPV6, LocalAddress(2, "127.0.0.2")]
    port = free_pair(*locals_)
    for local in locals_:
        media.open(local, port)
    for local in locals_:
        with udp_socket(local) as phone:
            phone.sendto(local.host.encode(), (local.host, port))
            assert inbox.take()[0][:4] == (local.key(port), local.host.encode(), endpoint(phone), local.host)
            assert media.send(stream_at(local, port), "", endpoint(phone), b"x")
            assert phone.recvfrom(10)[1][:2] == (local.host, port)
    media.close(IPV4, port)
    assert_free(IPV4, port)
    with pytest.raises(OSError, match="in use"):
        assert_free(IPV6, port)


def test_both_wildcards_on_the_same_port(media, inbox):
    wildcards = {IPV4: LocalAddress(0), IPV6: LocalAddress(1, is_ipv6=True)}
    port = free_pair(*wildcards.values())
    for wildcard in wildcards.values():
        media.open(wildcard, port)
    for local, wildcard in wildcards.items():
        with udp_socket(local) as phone:
            phone.sendto(b"x", (local.host, port))
            assert inbox.take()[0][:4] == (wildcard.key(port), b"x", endpoint(phone), "")


@pytest.mark.parametrize(("local", "other"), [(IPV4, IPV6), (IPV6, IPV4)], ids=["from IPv4", "from IPv6"])
def test_nothing_is_sent_to_the_other_family(media, local, other):
    port = free_pair()
    media.open(local, port)
    with udp_socket(other) as phone:
        assert not media.send(stream_at(local, port), "", endpoint(phone), b"x")
    mapped = Endpoint("::ffff:127.0.0.1", 9)
    assert local.is_ipv6 or not media.send(stream_at(local, port), "", mapped, b"x")


def test_closed_pair_is_free_and_silent(media, inbox, local, phone):
    port, other = free_pair(), None
    media.open(local, port)
    other = free_pair()
    media.open(local, other)
    media.close(local, port)
    for number in (port, port + 1):
        assert_free(local, number)
        phone.sendto(b"late", (local.host, number))
    phone.sendto(b"media", (local.host, other))
    assert [arrived.data for arrived in inbox.take()] == [b"media"]


def test_close_all(media):
    opened = []
    for local in (IPV4, IPV6, IPV4):
        opened.append((local, free_pair()))
        media.open(*opened[-1])
    media.close_all()
    for local, port in opened:
        assert_free(local, port)
        assert_free(local, port + 1)


def test_one_socket_does_not_keep_the_others_waiting(media, inbox, local, phone):
    port = free_pair()
    media.open(local, port)
    for number in range(BATCH + 8):
        phone.sendto(bytes([number]), (local.host, port))
    arrived = inbox.take(BATCH + 8)
    assert [one.data[0] for one in arrived] == list(range(BATCH + 8))
    # The clock is read once for each batch.
    assert list(Counter(one.now for one in arrived).values()) == [BATCH, 8]


def test_sockets_that_always_have_more_have_their_turns_one_after_the_other(media, inbox, phone, local):
    ports = []
    for _ in range(TURNS):
        ports.append(free_pair())
        media.open(local, ports[-1])
    both = [port + odd for port in ports for odd in (0, 1)]
    for port in both:
        for _ in range(BATCH + 1):
            phone.sendto(b"x", (local.host, port))
    arrived = inbox.take(len(both) * BATCH)
    turns = [arrived[at : at + BATCH] for at in range(0, len(both) * BATCH, BATCH)]
    assert all(len({one.key for one in turn}) == 1 for turn in turns)
    assert {turn[0].key for turn in turns} == {local.key(port) for port in both}


def test_what_waited_too_long_is_dropped_and_counted(loop, inbox, local, phone):
    """And what did not, arrives, whether or not it is looked at for its age."""
    clocks = ShiftedClocks()
    media = BoundMedia(loop, TOS, inbox.on_datagram, AgeLimit(0.2, clocks.monotonic, clocks.wall))
    port = free_pair()
    media.open(local, port)
    with wait_for_stamps():
        for data in (b"1", b"2", b"3"):
            phone.sendto(data, (local.host, port))
        clocks.passed_s += 10.0
        wait_for(lambda: inbox.turn() or media.waited_too_long() == 3, DEADLINE_S, "three to be dropped")
        assert inbox.arrived == []
        # All of these are old by the kernel's clock, which knows nothing of the ten seconds; a step explains it.
        clocks.stepped_s -= 10.0
        phone.sendto(b"4", (local.host, port))
        (arrived,) = inbox.take()
        assert (arrived.data, arrived.source) == (b"4", endpoint(phone))
    assert (media.waited_too_long(), media.no_room()) == (3, 0)
    media.close_all()


def test_each_datagram_has_its_timestamp_while_it_is_handed_on(media, inbox, local, phone):
    """Though all are taken long after they arrived, and at two ports in turn."""
    port = free_pair()
    media.open(local, port)
    stamps, sent = [], []
    inbox.on_arrival = lambda: stamps.append(media.stamp()[0])
    with wait_for_stamps():
        for odd in (0, 1):
            phone.sendto(b"the kernel notes those that are taken after this", (local.host, port + odd))
            inbox.take()
        stamps.clear()
        for number in range(6):
            before = time.time_ns()
            phone.sendto(bytes([number]), (local.host, port + number % 2))
            sent.append((before, time.time_ns()))
        arrived = inbox.take(6)
    assert sorted(one.data[0] for one in arrived) == list(range(6))
    for one, stamp in zip(arrived, stamps, strict=True):
        before, after = sent[one.data[0]]
        assert before <= stamp <= after


def test_what_there_is_no_room_for_is_counted_also_of_ports_that_are_closed(media, inbox, local, phone):
    for lost in (1, 2):
        port = free_pair()
        media.open(local, port)
        sent = 0
        while media.no_room() < lost:
            phone.sendto(bytes(1000), (local.host, port))
            sent += 1
        inbox.take(sent - 1)
        media.close(local, port)
        assert media.no_room() == lost
    assert media.waited_too_long() == 0


def test_pair_may_be_closed_by_what_arrives(media, inbox, local, phone, caplog):
    """As by a command that is executed meanwhile. What waits in the socket is lost."""
    caplog.set_level(logging.DEBUG, "rtpproxy")
    port = free_pair()
    media.open(local, port)
    inbox.on_arrival = lambda: media.close(local, port)
    for _ in range(3):
        phone.sendto(b"x", (local.host, port))
    assert len(inbox.take()) == 1
    inbox.turn()
    assert inbox.arrived == []
    assert caplog.records == []
    assert_free(local, port)


def test_failure_to_send_is_counted_and_logged_ever_more_rarely(media, caplog):
    port = free_pair()
    media.open(IPV4, port)
    stream = stream_at(IPV4, port)
    for _ in range(9):
        assert not media.send(stream, "", BROADCAST, b"x")
    assert media.send_failures.total == 9
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        f"cannot send to 255.255.255.255:9: Permission denied ({number} failures so far)" for number in (1, 2, 4, 8)
    ]
    with udp_socket(IPV4) as phone:
        assert media.send(stream, "", endpoint(phone), b"x")


def test_peer_that_is_gone_does_no_harm(media, inbox, local, phone):
    """Its host answers with ICMP, which must not stop the receiving."""
    port = free_pair()
    media.open(local, port)
    with udp_socket(local) as gone:
        address = endpoint(gone)
    for _ in range(3):
        media.send(stream_at(local, port), "", address, b"x")
    phone.sendto(b"media", (local.host, port))
    assert inbox.take()[0].data == b"media"


def test_changed_routes_are_nothing_to_it(media):
    media.routes_changed()
