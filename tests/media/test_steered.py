"""Ports without sockets, in a namespace of the test, with the real sk_lookup program.

The namespace has loopback only, with further addresses on it. Packets that loop back keep the checksum that the raw
socket was given, and the receiving side verifies it: see `test_wrong_checksums_would_be_noticed`.
"""

import asyncio
import os
import socket
import struct
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
import uvloop
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6

from rtpproxy.addr import Endpoint
from rtpproxy.config import Config, ListenAddress
from rtpproxy.errors import OffloadError, PortBusyError
from rtpproxy.media import receiving, sending
from rtpproxy.media.age_limit import AgeLimit
from rtpproxy.media.receiving import BATCH
from rtpproxy.media.sockets import route_source
from rtpproxy.media.steered import SteeredMedia
from rtpproxy.offload.programs import Programs
from rtpproxy.session.latch import Latch
from rtpproxy.session.local import LocalAddress, LocalAddresses
from rtpproxy.session.session import Component, Stream
from tests.fakes import Inbox, ShiftedClocks, no_limit
from tests.media.stamping import wait_for_stamps
from tests.netns import udp_counter
from tests.running import expect_refusal, own_namespace
from tests.waiting import DEADLINE_S, wait_for

pytestmark = [pytest.mark.root, pytest.mark.kernel]

FIRST, LAST = 20000, 21998
TOS = 0xB8
SOCKETS = 8
"""Receiving sockets of each family: what the map of the programs has room for."""
LOOPBACK, NEAR, OTHER = "127.0.0.1", "10.0.0.1", "10.0.0.2"
LOOPBACK6, NEAR6, OTHER6 = "::1", "fd00::1", "fd00::2"
"""Our addresses."""
FAR, FAR6 = "10.9.9.9", "fd00:9::9"
"""Addresses that are reached by a route; that of IPv6 is a local route, since loopback can have no other."""
ANY, ANY6 = ListenAddress(), ListenAddress(is_ipv6=True)
IPV4, IPV6 = LocalAddress(0), LocalAddress(1, is_ipv6=True)
"""Port spaces of a relay that listens on everything."""
families = pytest.mark.parametrize("local", [IPV4, IPV6], ids=["IPv4", "IPv6"])
ETH_P_ALL = 3
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23


def set_up_namespace():
    for command in (
        *(f"addr add {host}/32 dev lo" for host in (NEAR, OTHER)),
        *(f"addr add {host}/128 dev lo nodad" for host in (NEAR6, OTHER6)),
        f"route add {FAR} dev lo src {NEAR}",
    ):
        subprocess.run(["ip", *command.split()], check=True)


class Steered:
    """Programs, media and a loop, as `instance` puts them together."""

    def __init__(self, *listen, limit=None):
        self.loop = uvloop.new_event_loop()
        self.inbox = Inbox(self.loop)
        self.programs = Programs(Config(listen=listen, lowest_port=FIRST, highest_port=LAST + 1))
        self.locals = LocalAddresses(listen, False, route_source)
        self.media = SteeredMedia(
            *(self.loop, self.inbox.on_datagram, limit or no_limit(self.inbox.clock)),
            *(self.programs.mark, self.programs.expect, self._add_local),
        )
        self.receivers = self.media.start(self.locals.known, self.programs.host_maps.sockets_per_family)
        self.programs.steer(self.receivers)

    def _add_local(self, address):
        try:
            self.programs.host_maps.add_local(address.host, address.slot)
        except OffloadError as error:
            raise OSError(0, str(error)) from error

    def close(self):
        self.media.close_all()
        self.programs.close()
        self.loop.close()


@pytest.fixture
def steer(namespace):
    """Steers the ports of the listen addresses that it is given, until the end of the test."""
    started = []

    def start(*listen, limit=None):
        started.append(Steered(*listen, limit=limit))
        return started[-1]

    yield start
    for steered in started:
        steered.close()


@pytest.fixture(scope="module")
def namespace():
    with own_namespace():
        set_up_namespace()
        yield


@pytest.fixture(scope="module")
def steered(namespace):
    steered = Steered(ANY, ANY6)
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
    """A pair that is open in both families, closed at the end."""
    port = take_pair(media, IPV4, IPV6)
    yield port
    media.close(IPV4, port)
    media.close(IPV6, port)


_next_pair = iter(range(FIRST, LAST, 2))


def take_pair(media, *locals_):
    port = next(_next_pair)
    for local in locals_:
        media.open(local, port)
    return port


@pytest.fixture
def phone(namespace):
    with udp_socket() as phone:
        yield phone


@pytest.fixture
def phone6(namespace):
    with udp_socket("::") as phone:
        yield phone


@pytest.fixture
def phone_of(phone, phone6):
    """The phone of a host's family."""
    return lambda host: phone6 if ":" in host else phone


def udp_socket(host="", port=0):
    is_ipv6 = ":" in host
    opened = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    opened.settimeout(DEADLINE_S)
    if is_ipv6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    opened.bind((host, port))
    return opened


def endpoint(opened, host=LOOPBACK):
    return Endpoint(host, opened.getsockname()[1])


def stream_at(port, local=IPV4, tos=TOS):
    stream = Stream(Component(port % 2), local, Latch(), tos=tos)
    stream.settle(local, port, 0.0)
    return stream


def received(phone):
    """The next datagram, and where it came from."""
    data, source = phone.recvfrom(70_000)
    return data, source[:2]


@pytest.fixture
def wire(namespace):
    """A socket that receives all that loopback carries from now on."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as wire:
        wire.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)  # each passes once on its way out and once in
        wire.bind(("lo", ETH_P_ALL))
        wire.settimeout(DEADLINE_S)
        yield wire


def udp_frames(wire, from_port):
    """The IPv4 header and UDP datagram of the next whole packet from a port."""
    while True:
        packet = wire.recv(70_000)
        header, datagram = packet[:20], packet[20:]
        if header[0] == 0x45 and header[9] == socket.IPPROTO_UDP and datagram[:2] == from_port.to_bytes(2):
            return header, datagram


def ipv6_frame(wire, from_port):
    """The next unfragmented IPv6 packet from a port, dissected."""
    while True:
        packet = wire.recv(70_000)
        if packet[0] >> 4 == 6 and packet[6] == socket.IPPROTO_UDP and packet[40:42] == from_port.to_bytes(2):
            return IPv6(packet)


def ones_sum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def wrong_checksums():
    """Datagrams of either family that were thrown away for a wrong checksum."""
    of_ipv6 = dict(line.split() for line in Path("/proc/net/snmp6").read_text().splitlines())
    return udp_counter("InCsumErrors") + int(of_ipv6["Udp6InCsumErrors"])


# Receiving


@pytest.mark.parametrize("local_host", [LOOPBACK, NEAR, OTHER, LOOPBACK6, NEAR6, OTHER6])
@pytest.mark.parametrize("odd", [0, 1])
def test_datagram_arrives_with_its_port_and_local_address(inbox, pair, phone_of, local_host, odd):
    phone = phone_of(local_host)
    phone.connect((local_host, pair + odd))
    phone.send(b"media")
    (arrived,) = inbox.take()
    local = IPV6 if ":" in local_host else IPV4
    assert arrived[:4] == (local.key(pair + odd), b"media", phone.getsockname()[:2], local_host)


@families
def test_every_port_has_one_receiving_socket(media, inbox, phone_of, local):
    host = LOOPBACK6 if local.is_ipv6 else LOOPBACK
    phone = phone_of(host)
    ports = [take_pair(media, local) for _ in range(2 * SOCKETS)]
    for port in ports:
        phone.sendto(port.to_bytes(2), (host, port))
        phone.sendto((port + 1).to_bytes(2), (host, port + 1))
    arrived = inbox.take(4 * SOCKETS)
    assert sorted(one.key for one in arrived) == sorted(local.key(port + odd) for port in ports for odd in (0, 1))
    assert all(local.key(int.from_bytes(one.data)) == one.key for one in arrived)
    for port in ports:
        media.close(local, port)


@pytest.mark.parametrize("host", [LOOPBACK, LOOPBACK6])
@pytest.mark.parametrize("size", [0, 1, 1472, 30_000, 65_507])
def test_any_size_arrives_whole(inbox, pair, phone_of, host, size):
    data = bytes(number % 251 for number in range(size))
    phone_of(host).sendto(data, (host, pair))
    assert inbox.take()[0].data == data


def assert_refused(port, host=LOOPBACK):
    """Check that nobody has the port: the kernel answers with ICMP."""
    with udp_socket("::" if ":" in host else "") as caller:
        caller.connect((host, port))
        expect_refusal(caller)


def test_closed_ports_are_nobodys(media, inbox, pair, phone, phone6):
    other = take_pair(media, IPV4, IPV6)
    media.close(IPV4, other)
    media.close(IPV6, other)
    for port in (other, other + 1, FIRST - 2, LAST + 2):
        assert_refused(port)
        assert_refused(port, LOOPBACK6)
    phone.sendto(b"media", (LOOPBACK, pair))
    phone6.sendto(b"media", (LOOPBACK6, pair))
    assert {arrived.key for arrived in inbox.take(2)} == {IPV4.key(pair), IPV6.key(pair)}


@pytest.mark.parametrize(("local", "host", "other_host"), [(IPV4, LOOPBACK, LOOPBACK6), (IPV6, LOOPBACK6, LOOPBACK)])
def test_families_are_port_spaces_of_their_own(media, inbox, phone_of, local, host, other_host):
    port = take_pair(media, local)
    assert_refused(port, other_host)
    with udp_socket(other_host, port) as program:
        phone_of(other_host).sendto(b"not media", (other_host, port))
        assert program.recv(100) == b"not media"
    phone_of(host).sendto(b"media", (host, port))
    assert [one[:2] for one in inbox.take()] == [(local.key(port), b"media")]
    media.close(local, port)


def test_port_may_be_opened_again(media, inbox, phone):
    port = take_pair(media, IPV4)
    media.close(IPV4, port)
    media.open(IPV4, port)
    phone.sendto(b"media", (LOOPBACK, port))
    assert [arrived.key for arrived in inbox.take()] == [port]
    media.close(IPV4, port)


@pytest.mark.parametrize("odd", [0, 1])
@pytest.mark.parametrize("host", ["", LOOPBACK, NEAR, "::", LOOPBACK6, NEAR6])
def test_port_of_another_program_is_busy_and_stays_its_own(media, inbox, pair, phone_of, host, odd):
    local, loopback = (IPV6, LOOPBACK6) if ":" in host else (IPV4, LOOPBACK)
    phone = phone_of(host)
    port = next(_next_pair)
    with udp_socket(host, port + odd) as program:
        with pytest.raises(PortBusyError, match=f"port {port + odd}: Address already in use"):
            media.open(local, port)
        phone.sendto(b"not media", (host if host.strip(":") else loopback, port + odd))
        assert program.recv(100) == b"not media"
        assert_refused(port + 1 - odd, loopback)
    phone.sendto(b"media", (loopback, pair))
    assert [arrived.key for arrived in inbox.take()] == [local.key(pair)]


def test_port_of_a_program_for_both_families_is_busy_in_both(media):
    port = next(_next_pair)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as program:
        program.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        program.bind(("::", port))
        for local in (IPV4, IPV6):
            with pytest.raises(PortBusyError):
                media.open(local, port)


def test_port_of_a_connected_program_is_busy(media):
    port = next(_next_pair)
    with udp_socket(LOOPBACK, port + 1) as program:
        program.connect((LOOPBACK, 9))
        with pytest.raises(PortBusyError):
            media.open(IPV4, port)


def test_one_socket_does_not_keep_the_others_waiting(inbox, pair, phone):
    for number in range(BATCH + 30):
        phone.sendto(bytes([number]), (LOOPBACK, pair))
    arrived = inbox.take(BATCH + 30)
    assert [one.data[0] for one in arrived] == list(range(BATCH + 30))
    # The clock is read once for each batch.
    assert list(Counter(one.now for one in arrived).values()) == [BATCH, 30]


def test_what_waited_too_long_is_dropped_and_counted(steer, phone, phone6):
    """And what did not, arrives, whether or not it is looked at for its age."""
    clocks = ShiftedClocks()
    steered = steer(ANY, ANY6, limit=AgeLimit(0.2, clocks.monotonic, clocks.wall))
    port = take_pair(steered.media, IPV4, IPV6)
    places = ((phone, LOOPBACK), (phone6, LOOPBACK6))
    with wait_for_stamps():
        for sender, host in places:
            for data in (b"1", b"2", b"3"):
                sender.sendto(data, (host, port))
        clocks.passed_s += 10.0
        wait_for(lambda: steered.inbox.turn() or steered.media.waited_too_long() == 6, DEADLINE_S, "six to be dropped")
        assert steered.inbox.arrived == []
        # All of these are old by the kernel's clock, which knows nothing of the ten seconds; a step explains it.
        clocks.stepped_s -= 10.0
        for sender, host in places:
            sender.sendto(b"4", (host, port))
            (arrived,) = steered.inbox.take()
            assert (arrived.data, arrived.source, arrived.local_host) == (b"4", endpoint(sender, host), host)
    assert (steered.media.waited_too_long(), steered.media.no_room()) == (6, 0)


def test_each_datagram_has_its_timestamp_while_it_is_handed_on(media, inbox, pair, phone, phone6):
    """Though all are taken in one turn, long after they arrived."""
    stamps, sent = [], []
    inbox.on_arrival = lambda: stamps.append(media.stamp()[0])
    with wait_for_stamps():
        for sender, host in ((phone, LOOPBACK), (phone6, LOOPBACK6)):
            sender.sendto(b"the kernel notes those that are taken after this", (host, pair))
            inbox.take()
            stamps.clear()
            sent.clear()
            for _ in range(5):
                before = time.time_ns()
                sender.sendto(b"media", (host, pair))
                sent.append((before, time.time_ns()))
            assert len({one.now for one in inbox.take(5)}) == 1
            assert all(before <= stamp <= after for (before, after), stamp in zip(sent, stamps, strict=True))


def test_what_there_is_no_room_for_is_counted(steer, phone):
    steered = steer(ANY)
    port = take_pair(steered.media, IPV4)
    sent = 0
    while not steered.media.no_room():
        phone.sendto(bytes(1000), (LOOPBACK, port))
        sent += 1
    steered.inbox.take(sent - 1)
    assert steered.media.no_room() == 1
    assert steered.media.waited_too_long() == 0


def test_what_waits_for_a_port_that_is_closed_meanwhile_still_says_which(media, inbox, phone):
    """The service discards it, because the port belongs to no session any more."""
    port = take_pair(media, IPV4)
    phone.sendto(b"late", (LOOPBACK, port))
    media.close(IPV4, port)
    assert [arrived.key for arrived in inbox.take()] == [port]


# Sending


def test_wrong_checksums_would_be_noticed(pair, phone):
    """The tests below rely on this: the kernel verifies the checksum of what a raw socket sent."""
    before = udp_counter("InCsumErrors")
    to_port = phone.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
        raw.sendto(struct.pack("!HHHH", pair, to_port, 10, 0x1234) + b"xx", (LOOPBACK, 0))
    wait_for(lambda: udp_counter("InCsumErrors") == before + 1, DEADLINE_S, "the wrong checksum to be counted")


@pytest.mark.parametrize("local", [IPV4, IPV6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 12, 171, 172, 1472, 1473, 30_000, 30_001, 65_507])
def test_sent_datagrams_arrive_whole_from_the_right_port(media, pair, phone_of, local, size):
    host = LOOPBACK6 if local.is_ipv6 else LOOPBACK
    phone = phone_of(host)
    data = bytes((7 * number + size) % 251 for number in range(size))
    before = wrong_checksums()
    for from_port in (pair, pair + 1):
        assert media.send(stream_at(from_port, local), host, endpoint(phone, host), data)
        assert received(phone) == (data, (host, from_port))
    assert wrong_checksums() == before


@pytest.mark.parametrize("size", [0, 1, 2, 171, 172, 1473, 30_000])
def test_datagram_on_the_wire(media, pair, phone, wire, size):
    data = bytes((7 * number + size) % 251 for number in range(size))
    assert media.send(stream_at(pair), NEAR, endpoint(phone, OTHER), data)
    header, datagram = udp_frames(wire, pair)
    from_port, to_port, length, checksum = struct.unpack("!HHHH", datagram[:8])
    assert (from_port, to_port, length) == (pair, endpoint(phone).port, 8 + size)
    assert datagram[8:] == data
    assert (header[1], header[12:20]) == (TOS, socket.inet_aton(NEAR) + socket.inet_aton(OTHER))
    assert checksum != 0
    assert ones_sum(header[12:20] + struct.pack("!HH", 17, length) + datagram) == 0xFFFF
    assert ones_sum(header) == 0xFFFF


@pytest.mark.parametrize("size", [0, 1, 2, 171, 172, 1473, 30_000])
def test_datagram_on_the_wire_over_ipv6(media, pair, phone6, wire, size):
    """The kernel computes the checksum."""
    data = bytes((7 * number + size) % 251 for number in range(size))
    to = endpoint(phone6, OTHER6)
    assert media.send(stream_at(pair, IPV6), NEAR6, to, data)
    packet = ipv6_frame(wire, pair)
    assert (packet.src, packet.dst, packet.tc, packet.fl, packet.hlim) == (NEAR6, OTHER6, TOS, 0, 64)
    datagram = packet[UDP]
    assert (datagram.sport, datagram.dport, datagram.len) == (pair, to.port, 8 + size)
    assert bytes(datagram.payload) == data
    checksum = datagram.chksum
    del datagram.chksum
    assert IPv6(bytes(packet))[UDP].chksum == checksum != 0


def test_checksum_of_zero_is_sent_as_all_ones(media, pair, phone, wire):
    """Zero would mean that there is no checksum (RFC 768)."""
    to = endpoint(phone)
    addresses = 2 * socket.inet_aton(LOOPBACK)
    rest = ones_sum(addresses + struct.pack("!HHHHH", 17, 10, pair, to.port, 10))
    for word in (0xFFFF - rest, 0xFFFF - rest - 1):
        assert media.send(stream_at(pair), LOOPBACK, to, word.to_bytes(2))
        checksum = udp_frames(wire, pair)[1][6:8]
        assert checksum == (b"\xff\xff" if word == 0xFFFF - rest else b"\x00\x01")
        assert phone.recv(10) == word.to_bytes(2)


def test_checksum_of_zero_is_sent_as_all_ones_over_ipv6(media, pair, phone6, wire):
    """A datagram without checksum would not be taken (RFC 8200)."""
    to = endpoint(phone6, LOOPBACK6)
    addresses = 2 * socket.inet_pton(socket.AF_INET6, LOOPBACK6)
    rest = ones_sum(addresses + struct.pack("!HHHHH", 17, 10, pair, to.port, 10))
    data = (0xFFFF - rest).to_bytes(2)
    assert media.send(stream_at(pair, IPV6), LOOPBACK6, to, data)
    assert ipv6_frame(wire, pair)[UDP].chksum == 0xFFFF
    assert phone6.recv(10) == data


def test_type_of_service_is_that_of_the_stream(media, pair, phone):
    phone.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    for tos in (TOS, 0x28, 0, TOS):  # as `tos=` of a command changes it
        assert media.send(stream_at(pair, tos=tos), LOOPBACK, endpoint(phone), b"x")
        data, ancillary, _, source = phone.recvmsg(100, 100)
        assert (data, source, ancillary[0][2]) == (b"x", (LOOPBACK, pair), bytes([tos]))


def test_traffic_class_is_that_of_the_stream(media, pair, phone6):
    phone6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    for tos in (TOS, 0x28):
        assert media.send(stream_at(pair, IPV6, tos), LOOPBACK6, endpoint(phone6, LOOPBACK6), b"x")
        ancillary = phone6.recvmsg(100, 100)[1]
        assert int.from_bytes(ancillary[0][2], "little") == tos


@pytest.mark.parametrize(("local", "host"), [(IPV4, LOOPBACK6), (IPV4, "::ffff:127.0.0.1"), (IPV6, LOOPBACK)])
def test_nothing_is_sent_to_the_other_family(media, pair, phone_of, local, host):
    before = media.send_failures.total
    phone = phone_of(host)
    for from_host in ("", LOOPBACK6 if local.is_ipv6 else LOOPBACK):
        assert not media.send(stream_at(pair, local), from_host, endpoint(phone, host), b"x")
    phone.setblocking(False)
    with pytest.raises(BlockingIOError):
        phone.recv(1)
    assert media.send_failures.total == before


@pytest.mark.parametrize("from_host", [LOOPBACK, NEAR, OTHER, LOOPBACK6, NEAR6, OTHER6])
def test_sends_from_the_address_that_is_asked_for(media, pair, phone_of, from_host):
    local, near = (IPV6, NEAR6) if ":" in from_host else (IPV4, NEAR)
    phone = phone_of(from_host)
    assert media.send(stream_at(pair, local), from_host, endpoint(phone, near), b"x")
    assert received(phone)[1] == (from_host, pair)


def test_route_chooses_the_address_where_none_is_asked_for(media, pair, phone, wire):
    assert media.send(stream_at(pair), "", endpoint(phone, OTHER), b"x")
    assert received(phone)[1] == (OTHER, pair)
    udp_frames(wire, pair)
    for source in (NEAR, OTHER):
        subprocess.run(["ip", "route", "replace", FAR, "dev", "lo", "src", source], check=True)
        media.routes_changed()
        for _ in range(2):
            assert media.send(stream_at(pair), "", Endpoint(FAR, 9), b"x")
            header, _ = udp_frames(wire, pair)
            assert header[12:16] == socket.inet_aton(source)


def test_route_chooses_the_ipv6_address_where_none_is_asked_for(media, pair, phone6):
    assert media.send(stream_at(pair, IPV6), "", endpoint(phone6, OTHER6), b"x")
    assert received(phone6)[1] == (OTHER6, pair)
    for source in (NEAR6, OTHER6):
        subprocess.run(["ip", "-6", "route", "replace", "local", FAR6, "dev", "lo", "src", source], check=True)
        media.routes_changed()
        for _ in range(2):
            assert media.send(stream_at(pair, IPV6), "", endpoint(phone6, FAR6), b"x")
            assert received(phone6)[1] == (source, pair)


@pytest.mark.parametrize(("local", "host"), [(IPV4, LOOPBACK), (IPV6, LOOPBACK6)])
def test_long_datagrams_are_fragmented_to_the_mtu(media, pair, phone_of, wire, local, host):
    data = bytes(number % 251 for number in range(30_001))
    phone = phone_of(host)
    subprocess.run(["ip", "link", "set", "lo", "mtu", "1500"], check=True)
    try:
        assert media.send(stream_at(pair, local), host, endpoint(phone, host), data)
        assert received(phone) == (data, (host, pair))
        assert all(len(wire.recv(70_000)) <= 1500 for _ in range(21))
    finally:
        subprocess.run(["ip", "link", "set", "lo", "mtu", "65536"], check=True)


def test_raw_sockets_receive_nothing(media, inbox, pair, phone_of):
    for host in (LOOPBACK, NEAR, OTHER, LOOPBACK6, NEAR6, OTHER6):
        local, loopback = (IPV6, LOOPBACK6) if ":" in host else (IPV4, LOOPBACK)
        assert media.send(stream_at(pair, local), host, endpoint(phone_of(host), loopback), b"x")
        phone_of(host).sendto(b"media", (host, pair))
    inbox.take(6)
    raw = [line.split() for name in ("raw", "raw6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    assert len(raw) >= 6
    assert {line[4].split(":")[1] for line in raw} == {"00000000"}, "bytes wait in a raw socket"


@families
def test_a_plain_socket_sends_from_the_port_and_receives_nothing(media, inbox, pair, phone_of, local):
    """What comes to the port is steered, and dropped once the port is closed; another such socket may be opened."""
    host = LOOPBACK6 if local.is_ipv6 else LOOPBACK
    phone = phone_of(host)
    with sending.plain_sender(stream_at(pair, local)) as first, sending.plain_sender(stream_at(pair, local)) as second:
        for sender in (first, second):
            sender.sendto(b"copy", endpoint(phone, host))
            assert received(phone)[:2] == (b"copy", (host, pair))
            assert not sender.getblocking()
        phone.sendto(b"media", (host, pair))
        assert [one.data for one in inbox.take()] == [b"media"]
        port = take_pair(media, local)
        with sending.plain_sender(stream_at(port, local)) as unsteered:
            media.close(local, port)
            phone.sendto(b"media", (host, port))
            wait_for(lambda: drops(unsteered) == 1, DEADLINE_S, "the datagram to be dropped")
            with pytest.raises(BlockingIOError):
                unsteered.recv(100)
            with pytest.raises(PortBusyError):
                media.open(local, port)
        media.open(local, port)
        media.close(local, port)
        for sender in (first, second):
            with pytest.raises(BlockingIOError):
                sender.recv(100)


def drops(opened):
    """Datagrams that a UDP socket did not take."""
    name = "udp6" if opened.family == socket.AF_INET6 else "udp"
    lines = [line.split() for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    (found,) = [int(line[-1]) for line in lines if line[9] == str(os.fstat(opened.fileno()).st_ino)]
    return found


def test_a_plain_socket_has_the_type_of_service_of_the_stream(pair, phone):
    phone.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    with sending.plain_sender(stream_at(pair, tos=0x28)) as sender:
        sender.sendto(b"x", endpoint(phone))
        assert phone.recvmsg(100, 100)[1][0][2] == bytes([0x28])


def test_failure_to_send_is_counted_and_logged_ever_more_rarely(media, pair, phone, caplog):
    before = media.send_failures.total
    media.send_failures.total = 0
    for _ in range(9):
        assert not media.send(stream_at(pair), LOOPBACK, Endpoint("255.255.255.255", 9), b"x")
    assert media.send_failures.total == 9
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        f"cannot send to 255.255.255.255:9: Permission denied ({number} failures so far)" for number in (1, 2, 4, 8)
    ]
    assert media.send(stream_at(pair), LOOPBACK, endpoint(phone), b"x")
    media.send_failures.total += before


@pytest.mark.parametrize(
    ("from_host", "to"),
    [
        ("192.0.2.250", Endpoint(LOOPBACK, 9)),  # not an address of ours
        ("", Endpoint("198.51.100.1", 9)),  # nowhere to go to
        (LOOPBACK, Endpoint("198.51.100.1", 9)),
    ],
)
def test_what_cannot_be_sent_is_a_failure_and_nothing_else(media, pair, phone, from_host, to):
    before = media.send_failures.total
    for _ in range(2):
        assert not media.send(stream_at(pair), from_host, to, b"x")
    assert media.send_failures.total == before + 2
    assert media.send(stream_at(pair), LOOPBACK, endpoint(phone), b"x")


@pytest.mark.parametrize(
    ("from_host", "to"),
    [("fd00::bad", Endpoint(LOOPBACK6, 9)), ("", Endpoint("2001:db8::1", 9)), (LOOPBACK6, Endpoint("2001:db8::1", 9))],
)
def test_what_cannot_be_sent_over_ipv6_is_a_failure_and_nothing_else(media, pair, phone6, from_host, to):
    before = media.send_failures.total
    for _ in range(2):
        assert not media.send(stream_at(pair, IPV6), from_host, to, b"x")
    assert media.send_failures.total == before + 2
    assert media.send(stream_at(pair, IPV6), LOOPBACK6, endpoint(phone6, LOOPBACK6), b"x")


def test_what_is_remembered_has_a_limit(media, inbox, pair, phone, monkeypatch):
    """All of 127/8 is ours, as a routed prefix may be: peers that use it up must not use up descriptors or memory."""
    monkeypatch.setattr(sending, "_MAX_SENDERS", 8)
    monkeypatch.setattr(sending, "MAX_REMEMBERED", 8)
    monkeypatch.setattr(receiving, "MAX_REMEMBERED", 8)
    media.send(stream_at(pair), LOOPBACK, endpoint(phone), b"x")
    phone.recv(10)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1, 40):
        host = f"127.0.1.{number}"
        assert media.send(stream_at(pair), "", endpoint(phone, host), b"x")
        assert phone.recvfrom(10)[1] == (LOOPBACK, pair)
        assert media.send(stream_at(pair), host, endpoint(phone), b"x")
        assert phone.recvfrom(10)[1] == (host, pair)
        phone.sendto(b"media", (host, pair))
        assert inbox.take()[0].local_host == host
        senders = media._senders
        for remembered in (senders._sources, senders._address_numbers, media._receivers._destinations):
            assert len(remembered) <= 8
    assert len(os.listdir("/proc/self/fd")) <= before + 8


# Listen addresses


@pytest.mark.parametrize(
    ("listen", "other", "loopback"),
    [(ListenAddress(NEAR), OTHER, LOOPBACK), (ListenAddress(NEAR6, is_ipv6=True), OTHER6, LOOPBACK6)],
    ids=["IPv4", "IPv6"],
)
def test_only_the_listen_address_is_steered(steer, phone_of, listen, other, loopback):
    steered = steer(listen)
    (local,) = steered.locals.known
    port = take_pair(steered.media, local)
    phone = phone_of(local.host)
    with udp_socket(other, port) as program:
        phone.sendto(b"not media", (other, port))
        assert program.recv(100) == b"not media"
    assert_refused(port, loopback)
    phone.sendto(b"media", (local.host, port))
    (arrived,) = steered.inbox.take()
    assert (arrived.key, arrived.data, arrived.local_host) == (local.key(port), b"media", local.host)
    port = next(_next_pair)
    with udp_socket(local.host, port), pytest.raises(PortBusyError):
        steered.media.open(local, port)
    with udp_socket(other, port):
        steered.media.open(local, port)


NEAR_BOTH = ListenAddress(NEAR), ListenAddress(NEAR6, is_ipv6=True, label="six")


def assert_heard_and_answered(steered, phone, local, port):
    """Check that a datagram to one of our ports arrives there, and that one sent from the port comes from it."""
    phone.sendto(b"media", (local.host, port))
    (arrived,) = steered.inbox.take()
    assert (arrived.key, arrived.data, arrived.local_host) == (local.key(port), b"media", local.host)
    assert steered.media.send(stream_at(port, local), local.host, endpoint(phone, local.host), b"x")
    assert received(phone) == (b"x", (local.host, port))


def test_same_number_on_several_addresses_is_several_ports(steer, phone_of):
    steered = steer(*NEAR_BOTH, ListenAddress(OTHER, label="other"), ListenAddress(OTHER6, True, "other6"))
    media, known = steered.media, steered.locals.known
    assert len({local.slot for local in known}) == 4
    port = take_pair(media)
    for local in known:
        assert_refused(port, local.host)
        media.open(local, port)
        assert_heard_and_answered(steered, phone_of(local.host), local, port)
    first, *others = known
    media.close(first, port)
    assert_refused(port, first.host)
    for local in others:
        assert_heard_and_answered(steered, phone_of(local.host), local, port)


@pytest.mark.parametrize("host", [OTHER, OTHER6])
def test_address_that_joins_is_heard_at_once_in_the_port_space_of_the_default(steer, phone_of, host):
    steered = steer(*NEAR_BOTH)
    media, default, joining = steered.media, steered.locals.default, steered.locals.at(host)
    assert joining.slot == default.slot
    port = take_pair(media, default)
    assert_refused(port, host)
    media.add_local(joining)
    for local in (default, joining):
        assert_heard_and_answered(steered, phone_of(local.host), local, port)
    assert_refused(port, NEAR6)


@pytest.mark.parametrize("host", [OTHER, OTHER6])
def test_port_must_be_free_on_every_address_of_its_port_space(steer, phone_of, host):
    steered = steer(*NEAR_BOTH)
    default, joining = steered.locals.default, steered.locals.at(host)
    port = next(_next_pair)
    with udp_socket(host, port + 1) as program:
        steered.media.open(default, port)
        steered.media.close(default, port)
        steered.media.add_local(joining)
        for local in (default, joining):
            with pytest.raises(PortBusyError, match=f"port {port + 1}: "):
                steered.media.open(local, port)
        phone_of(host).sendto(b"not media", (host, port + 1))
        assert program.recv(100) == b"not media"
    steered.media.open(joining, port)


@pytest.mark.parametrize("host", [OTHER, OTHER6])
@pytest.mark.parametrize("odd", [0, 1])
def test_address_does_not_join_while_a_program_there_has_a_port_of_a_call(steer, phone_of, host, odd):
    """Otherwise packets to that program would be taken for the call's."""
    steered = steer(*NEAR_BOTH)
    media, default, joining = steered.media, steered.locals.default, steered.locals.at(host)
    free, port = take_pair(media, default), take_pair(media, default)
    with udp_socket(host, port + odd) as program:
        reason = f"calls have ports that another program has on {host}: port {port + odd}: Address already in use"
        for _ in range(2):
            with pytest.raises(OSError, match=reason):
                media.add_local(joining)
        phone_of(host).sendto(b"not media", (host, port + odd))
        assert program.recv(100) == b"not media"
        assert_refused(free, host)
        media.close(default, port)
        media.add_local(joining)
    assert_heard_and_answered(steered, phone_of(host), joining, free)


def test_address_under_a_wildcard_shares_its_port_space(steer, phone, phone6):
    """That of IPv4 is listened on as a whole; addresses of IPv6 are not, and of these one joins."""
    steered = steer(ANY)
    under, beside = steered.locals.at(NEAR), steered.locals.at(NEAR6)
    port = take_pair(steered.media, under)
    assert_refused(port, NEAR6)
    for local in (under, beside):
        steered.media.add_local(local)
    for host in (NEAR, OTHER):
        phone.sendto(b"media", (host, port))
        assert steered.inbox.take()[0][:2] == (under.key(port), b"media")
    assert_heard_and_answered(steered, phone6, beside, port)
    assert_refused(port, OTHER6)
    other = next(_next_pair)
    with udp_socket(OTHER, other), pytest.raises(PortBusyError):
        steered.media.open(beside, other)


@pytest.mark.parametrize("foreign", ["192.0.2.250", "2001:db8::1"])
def test_address_that_is_not_ours_leaves_nothing(steer, phone, foreign):
    steered = steer(*NEAR_BOTH)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        with pytest.raises(OSError, match="Cannot assign requested address"):
            steered.media.add_local(steered.locals.at(foreign))
    assert len(os.listdir("/proc/self/fd")) == before
    port = take_pair(steered.media, steered.locals.default)
    assert_heard_and_answered(steered, phone, steered.locals.default, port)


def test_without_ipv6_there_is_ipv4():
    with own_namespace():
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
        steered = Steered(ANY)
        try:
            assert len(steered.receivers) == SOCKETS
            port = take_pair(steered.media, IPV4)
            with udp_socket() as phone:
                phone.sendto(b"media", (LOOPBACK, port))
                assert steered.inbox.take()[0].key == port
            with pytest.raises(OSError, match="Cannot assign requested address"):
                steered.media.add_local(steered.locals.at(LOOPBACK6))
            Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("0")
            with pytest.raises(OSError, match="no IPv6 when the relay started"):
                steered.media.add_local(steered.locals.at(LOOPBACK6))
        finally:
            steered.close()


def test_nothing_is_steered_after_the_end(namespace, phone, phone6):
    steered = Steered(ANY, ANY6)
    port = take_pair(steered.media, IPV4, IPV6)
    phone.sendto(b"media", (LOOPBACK, port))
    phone6.sendto(b"media", (LOOPBACK6, port))
    steered.inbox.take(2)
    steered.close()
    assert_refused(port)
    assert_refused(port, LOOPBACK6)


def test_closing_twice_and_before_the_start(namespace):
    loop = asyncio.new_event_loop()
    media = SteeredMedia(loop, lambda *_: None, no_limit(lambda: 0.0), lambda *_: None, lambda *_: None, lambda _: None)
    media.close_all()
    assert len(set(media.start([IPV4], SOCKETS))) == 2 * SOCKETS
    media.close_all()
    media.close_all()
    loop.close()
