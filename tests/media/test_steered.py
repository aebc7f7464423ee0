"""Ports without sockets, in a namespace of the test, with the real sk_lookup program.

The namespace has loopback only, with further addresses on it. Packets that loop back keep the checksum that the raw
socket was given, and the receiving side verifies it: see `test_wrong_checksums_would_be_noticed`.
"""

import asyncio
import socket
import struct
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import uvloop

from rtpproxy.addr import Endpoint
from rtpproxy.config import Config
from rtpproxy.errors import PortBusyError
from rtpproxy.kernel import Programs
from rtpproxy.media.steered import BATCH, SOCKETS, SteeredMedia
from tests.fakes import Inbox
from tests.running import own_namespace
from tests.waiting import wait_for

pytestmark = [pytest.mark.root, pytest.mark.kernel]

FIRST, LAST = 20000, 21998
TOS = 0xB8
LOOPBACK, NEAR, OTHER = "127.0.0.1", "10.0.0.1", "10.0.0.2"
"""Addresses of ours."""
FAR = "10.9.9.9"
"""An address that only a route leads to."""
ETH_P_ALL, ETH_P_IP = 3, 0x0800


def set_up_namespace():
    for command in (f"addr add {NEAR}/32 dev lo", f"addr add {OTHER}/32 dev lo", f"route add {FAR} dev lo src {NEAR}"):
        subprocess.run(["ip", *command.split()], check=True)


class Steered:
    """Programs, media and a loop, as `relay` puts them together."""

    def __init__(self, listen_host=""):
        self.loop = uvloop.new_event_loop()
        self.inbox = Inbox(self.loop)
        config = Config(listen_host=listen_host, port_min=FIRST, port_max=LAST)
        self.programs = Programs(config)
        self.media = SteeredMedia(
            listen_host, TOS, self.inbox.on_datagram, self.inbox.clock, lambda *mark: self.programs.mark(*mark)
        )
        self.programs.steer(self.media.start(self.loop))

    def close(self):
        self.media.close_all()
        self.programs.close()
        self.loop.close()


@pytest.fixture(scope="module")
def namespace():
    with own_namespace():
        set_up_namespace()
        yield


@pytest.fixture(scope="module")
def steered(namespace):
    steered = Steered()
    yield steered
    steered.close()


@pytest.fixture
def inbox(steered):
    steered.inbox.on_arrival = lambda: None
    return steered.inbox


@pytest.fixture
def media(steered):
    return steered.media


@pytest.fixture
def pair(media):
    """An open pair, closed at the end."""
    port = take_pair(media)
    yield port
    media.close(port)


_next_pair = iter(range(FIRST, LAST, 2))


def take_pair(media):
    while True:
        port = next(_next_pair)
        try:
            media.open(port)
        except PortBusyError:  # one of the receiving sockets, whose ports the kernel chose
            continue
        return port


@pytest.fixture
def phone(namespace):
    with udp_socket() as phone:
        yield phone


def udp_socket(host="", port=0):
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.settimeout(5.0)
    opened.bind((host, port))
    return opened


def endpoint(opened, host=LOOPBACK):
    return Endpoint(host, opened.getsockname()[1])


@pytest.fixture
def wire(namespace):
    """Everything that loopback carries from now on."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as wire:
        wire.bind(("lo", ETH_P_IP))
        wire.settimeout(5.0)
        yield wire


def udp_frames(wire, from_port):
    """The IPv4 header and UDP datagram of the next whole packet from a port."""
    while True:
        packet = wire.recv(70_000)
        header, datagram = packet[:20], packet[20:]
        if header[9] == socket.IPPROTO_UDP and datagram[:2] == from_port.to_bytes(2):
            return header, datagram


def ones_sum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def snmp(name):
    """A counter of UDP in this namespace."""
    names, values = (line.split()[1:] for line in Path("/proc/net/snmp").read_text().splitlines() if "Udp:" in line)
    return int(values[names.index(name)])


# Receiving


@pytest.mark.parametrize("local_host", [LOOPBACK, NEAR, OTHER])
@pytest.mark.parametrize("odd", [0, 1])
def test_datagram_arrives_with_its_port_and_local_address(inbox, pair, phone, local_host, odd):
    phone.connect((local_host, pair + odd))
    phone.send(b"media")
    (arrived,) = inbox.take()
    assert arrived[:4] == (pair + odd, b"media", phone.getsockname(), local_host)


def test_every_port_has_one_receiving_socket(media, inbox, phone):
    ports = [take_pair(media) for _ in range(2 * SOCKETS)]
    for port in ports:
        phone.sendto(port.to_bytes(2), (LOOPBACK, port))
        phone.sendto((port + 1).to_bytes(2), (LOOPBACK, port + 1))
    arrived = inbox.take(4 * SOCKETS)
    assert sorted(one.port for one in arrived) == sorted([*ports, *(port + 1 for port in ports)])
    assert all(int.from_bytes(one.data) == one.port for one in arrived)
    for port in ports:
        media.close(port)


@pytest.mark.parametrize("size", [0, 1, 1472, 30_000, 65_507])
def test_any_size_arrives_whole(inbox, pair, phone, size):
    data = bytes(number % 251 for number in range(size))
    phone.sendto(data, (LOOPBACK, pair))
    assert inbox.take()[0].data == data


def assert_refused(port):
    """Nobody is there: the kernel says so by ICMP."""
    with udp_socket() as caller:
        caller.connect((LOOPBACK, port))
        caller.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            caller.recv(1)


def test_closed_ports_are_nobodys(media, inbox, pair, phone):
    other = take_pair(media)
    media.close(other)
    for port in (other, other + 1, FIRST - 2, LAST + 2):
        assert_refused(port)
    phone.sendto(b"media", (LOOPBACK, pair))
    assert [arrived.port for arrived in inbox.take()] == [pair]


def test_port_may_be_opened_again(media, inbox, phone):
    port = take_pair(media)
    media.close(port)
    media.open(port)
    phone.sendto(b"media", (LOOPBACK, port))
    assert [arrived.port for arrived in inbox.take()] == [port]
    media.close(port)


@pytest.mark.parametrize("odd", [0, 1])
@pytest.mark.parametrize("host", ["", LOOPBACK, NEAR])
def test_port_of_another_program_is_busy_and_stays_its_own(media, inbox, pair, phone, host, odd):
    port = take_pair(media)
    media.close(port)
    with udp_socket(host, port + odd) as program:
        with pytest.raises(PortBusyError, match=f"port {port + odd}: Address already in use"):
            media.open(port)
        phone.sendto(b"not media", (host or LOOPBACK, port + odd))
        assert program.recv(100) == b"not media"
        assert_refused(port + 1 - odd)
    phone.sendto(b"media", (LOOPBACK, pair))
    assert [arrived.port for arrived in inbox.take()] == [pair]


def test_one_socket_does_not_keep_the_others_waiting(inbox, pair, phone):
    for number in range(BATCH + 30):
        phone.sendto(bytes([number]), (LOOPBACK, pair))
    arrived = inbox.take(BATCH + 30)
    assert [one.data[0] for one in arrived] == list(range(BATCH + 30))
    # The clock is read once a batch.
    assert list(Counter(one.now for one in arrived).values()) == [BATCH, 30]


def test_what_waits_for_a_port_that_is_closed_meanwhile_still_says_which(media, inbox, phone):
    """The service discards it, because the port is no session's any more."""
    port = take_pair(media)
    phone.sendto(b"late", (LOOPBACK, port))
    media.close(port)
    assert [arrived.port for arrived in inbox.take()] == [port]


# Sending


def test_wrong_checksums_would_be_noticed(pair, phone):
    """The ground that the tests below stand on: the kernel verifies what a raw socket sent."""
    before = snmp("InCsumErrors")
    to_port = phone.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
        raw.sendto(struct.pack("!HHHH", pair, to_port, 10, 0x1234) + b"xx", (LOOPBACK, 0))
    wait_for(lambda: snmp("InCsumErrors") == before + 1, 5.0, "the wrong checksum to be counted")


@pytest.mark.parametrize("size", [0, 1, 2, 3, 12, 171, 172, 1472, 1473, 30_000, 30_001, 65_507])
def test_sent_datagrams_arrive_whole_from_the_right_port(media, pair, phone, size):
    data = bytes((7 * number + size) % 251 for number in range(size))
    before = snmp("InCsumErrors")
    for from_port in (pair, pair + 1):
        assert media.send(from_port, LOOPBACK, endpoint(phone), data)
        assert phone.recvfrom(70_000) == (data, (LOOPBACK, from_port))
    assert snmp("InCsumErrors") == before


@pytest.mark.parametrize("size", [0, 1, 2, 171, 172, 1473, 30_000])
def test_datagram_on_the_wire(media, pair, phone, wire, size):
    data = bytes((7 * number + size) % 251 for number in range(size))
    assert media.send(pair, NEAR, endpoint(phone, OTHER), data)
    header, datagram = udp_frames(wire, pair)
    from_port, to_port, length, checksum = struct.unpack("!HHHH", datagram[:8])
    assert (from_port, to_port, length) == (pair, endpoint(phone).port, 8 + size)
    assert datagram[8:] == data
    assert (header[1], header[12:20]) == (TOS, socket.inet_aton(NEAR) + socket.inet_aton(OTHER))
    assert checksum != 0
    assert ones_sum(header[12:20] + struct.pack("!HH", 17, length) + datagram) == 0xFFFF
    assert ones_sum(header) == 0xFFFF


def test_checksum_of_zero_is_sent_as_all_ones(media, pair, phone, wire):
    """Zero would mean that there is none (RFC 768)."""
    to = endpoint(phone)
    addresses = 2 * socket.inet_aton(LOOPBACK)
    rest = ones_sum(addresses + struct.pack("!HHHHH", 17, 10, pair, to.port, 10))
    for word in (0xFFFF - rest, 0xFFFF - rest - 1):
        assert media.send(pair, LOOPBACK, to, word.to_bytes(2))
        checksum = udp_frames(wire, pair)[1][6:8]
        assert checksum == (b"\xff\xff" if word == 0xFFFF - rest else b"\x00\x01")
        assert phone.recv(10) == word.to_bytes(2)


@pytest.mark.parametrize("from_host", [LOOPBACK, NEAR, OTHER])
def test_sends_from_the_address_that_is_asked_for(media, pair, phone, from_host):
    assert media.send(pair, from_host, endpoint(phone, NEAR), b"x")
    assert phone.recvfrom(10)[1] == (from_host, pair)


def test_route_chooses_the_address_where_none_is_asked_for(media, pair, phone, wire):
    assert media.send(pair, "", endpoint(phone, OTHER), b"x")
    assert phone.recvfrom(10)[1] == (OTHER, pair)
    udp_frames(wire, pair)
    for source in (NEAR, OTHER):
        subprocess.run(["ip", "route", "replace", FAR, "dev", "lo", "src", source], check=True)
        media.routes_changed()
        for _ in range(2):
            assert media.send(pair, "", Endpoint(FAR, 9), b"x")
            header, _ = udp_frames(wire, pair)
            assert header[12:16] == socket.inet_aton(source)


def test_long_datagrams_are_fragmented_to_the_mtu(media, pair, phone):
    data = bytes(number % 251 for number in range(30_001))
    subprocess.run(["ip", "link", "set", "lo", "mtu", "1500"], check=True)
    try:
        assert media.send(pair, LOOPBACK, endpoint(phone), data)
        assert phone.recvfrom(70_000) == (data, (LOOPBACK, pair))
    finally:
        subprocess.run(["ip", "link", "set", "lo", "mtu", "65536"], check=True)


def test_raw_sockets_receive_nothing(media, inbox, pair, phone):
    for from_host in (LOOPBACK, NEAR, OTHER):
        assert media.send(pair, from_host, endpoint(phone), b"x")
    assert media.send(pair, "", Endpoint(FAR, 9), b"x")
    for host in (LOOPBACK, NEAR, OTHER):
        phone.sendto(b"media", (host, pair))
    inbox.take(3)
    raw = [line.split() for line in Path("/proc/net/raw").read_text().splitlines()[1:]]
    assert len(raw) >= 3
    assert {line[4].split(":")[1] for line in raw} == {"00000000"}, "bytes wait in a raw socket"


def test_failure_to_send_is_counted_and_logged_ever_more_rarely(media, pair, phone, caplog):
    before = media.send_failures
    media.send_failures = 0
    for _ in range(9):
        assert not media.send(pair, LOOPBACK, Endpoint("255.255.255.255", 9), b"x")
    assert media.send_failures == 9
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        f"cannot send to 255.255.255.255:9: Permission denied ({number} failures so far)" for number in (1, 2, 4, 8)
    ]
    assert media.send(pair, LOOPBACK, endpoint(phone), b"x")
    media.send_failures += before


@pytest.mark.parametrize(
    ("from_host", "to"),
    [
        ("192.0.2.250", Endpoint(LOOPBACK, 9)),  # not an address of ours
        ("", Endpoint("198.51.100.1", 9)),  # nowhere to go to
        (LOOPBACK, Endpoint("198.51.100.1", 9)),
    ],
)
def test_what_cannot_be_sent_is_a_failure_and_nothing_else(media, pair, phone, from_host, to):
    before = media.send_failures
    for _ in range(2):
        assert not media.send(pair, from_host, to, b"x")
    assert media.send_failures == before + 2
    assert media.send(pair, LOOPBACK, endpoint(phone), b"x")


# A listen address


def test_only_the_listen_address_is_steered(namespace, phone):
    steered = Steered(NEAR)
    try:
        port = take_pair(steered.media)
        with udp_socket(OTHER, port) as program:
            phone.sendto(b"not media", (OTHER, port))
            assert program.recv(100) == b"not media"
        assert_refused(port)
        phone.sendto(b"media", (NEAR, port))
        assert steered.inbox.take()[0][:2] == (port, b"media")
        with udp_socket(NEAR, port + 1000), pytest.raises(PortBusyError):
            steered.media.open(port + 1000)
        with udp_socket(OTHER, port + 1000):
            steered.media.open(port + 1000)
    finally:
        steered.close()


def test_nothing_is_steered_after_the_end(namespace, phone):
    steered = Steered()
    port = take_pair(steered.media)
    phone.sendto(b"media", (LOOPBACK, port))
    steered.inbox.take()
    steered.close()
    assert_refused(port)


def test_closing_twice_and_before_the_start(namespace):
    media = SteeredMedia("", TOS, lambda *_: None, lambda: 0.0, lambda *_: None)
    media.close_all()
    loop = asyncio.new_event_loop()
    assert len(set(media.start(loop))) == SOCKETS
    media.close_all()
    media.close_all()
    loop.close()
