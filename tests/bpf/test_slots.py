"""Port spaces: the same port number at several addresses of ours, in the XDP program and in the steering program."""

import contextlib
import itertools
import select
import socket

import pytest
from scapy.layers.inet import UDP
from scapy.packet import Raw

from rtpproxy.config import Config, ListenAddress
from rtpproxy.errors import OffloadError
from rtpproxy.network.links import Reception
from rtpproxy.offload.programs import Programs
from rtpproxy.session.local import port_key
from tests.bpf.data_plane import DataPlane, Outcome
from tests.bpf.frames import CALLER, RELAY_IN, ethernet, forwarded, ipv4
from tests.bpf.prog_run import XDP_PASS, XDP_REDIRECT
from tests.conftest import RELAY_MAC
from tests.running import own_namespace
from tests.waiting import DEADLINE_S

pytestmark = [pytest.mark.root, pytest.mark.kernel]

FIRST, LAST = 40000, 40098
SLOTS = 3
SECOND_HOST, THIRD_HOST, STRANGER = "10.0.8.1", "10.0.9.1", "10.0.7.1"
SOCKETS = 8


@contextlib.contextmanager
def programs_on(*listen):
    config = Config(listen=listen, lowest_port=FIRST, highest_port=LAST + 1)
    with contextlib.closing(Programs(config)) as programs:
        programs.host_maps.mark_frames((1, ()), Reception(RELAY_MAC, 1))
        yield programs


def sent_to(host, port):
    return bytes(ethernet() / ipv4(dst=host) / UDP(sport=CALLER.port, dport=port) / Raw(b"x"))


@pytest.fixture(scope="module")
def programs():
    with programs_on(*map(ListenAddress, (RELAY_IN, SECOND_HOST, THIRD_HOST))) as programs:
        yield programs


@pytest.fixture
def plane(programs):
    with DataPlane(programs._loaded, programs.tables) as plane:
        yield plane


@pytest.mark.parametrize("port", [FIRST, FIRST + 1, LAST + 1])
def test_same_port_at_three_addresses(plane, programs, port):
    hosts = [RELAY_IN, SECOND_HOST, THIRD_HOST]
    entries = [
        plane.install(port=port, slot=slot, local_host=host, from_port=1000 + slot) for slot, host in enumerate(hosts)
    ]
    for entry in entries:
        programs.mark(entry.key, True)
    for times, (host, entry) in enumerate(zip(hosts, entries, strict=True), 1):
        for _ in range(times):
            outcome = plane.run(sent_to(host, port))
            assert outcome == Outcome(XDP_REDIRECT, forwarded(entry, b"x"), {"forwarded": 1})
    assert [programs.tables.counts.forwarded(entry.key) for entry in entries] == [1, 2, 3]
    for entry in entries:
        programs.tables.ports.withdraw(entry.key)
        programs.mark(entry.key, False)


def test_open_in_one_space_is_closed_in_the_others(plane, programs):
    programs.mark(port_key(1, FIRST + 2), True)
    reasons = [plane.run(sent_to(host, FIRST + 2)).counted for host in (RELAY_IN, SECOND_HOST, THIRD_HOST)]
    assert reasons == [{"up_not_ours": 1}, {"up_no_entry": 1}, {"up_not_ours": 1}]
    programs.mark(port_key(1, FIRST + 2), False)


@pytest.mark.parametrize("port", [0, 1, FIRST - 1, LAST + 2, 65535])
def test_port_out_of_range(plane, programs, port):
    """It must not be taken for a row of a neighbouring port space."""
    keys = [port_key(slot, at) for slot in range(SLOTS) for at in range(FIRST, LAST + 2)]
    for key in keys:
        programs.mark(key, True)
    for host in (RELAY_IN, SECOND_HOST, THIRD_HOST):
        frame = sent_to(host, port)
        assert plane.run(frame) == Outcome(XDP_PASS, frame, {"up_not_ours": 1})
    for key in keys:
        programs.mark(key, False)


def test_address_that_is_not_ours(plane, programs):
    for slot in range(SLOTS):
        programs.mark(port_key(slot, FIRST), True)
    frame = sent_to(STRANGER, FIRST)
    assert plane.run(frame) == Outcome(XDP_PASS, frame, {"up_not_ours": 1})
    for slot in range(SLOTS):
        programs.mark(port_key(slot, FIRST), False)


def more_addresses(loaded):
    """How many addresses may join one port space."""
    return loaded.layouts["local_slots"].entries - 1


def test_rows_are_those_of_the_port_spaces(loaded):
    """Addresses under a wildcard have that of the wildcard, however many there are."""
    any4, any6, one = ListenAddress(), ListenAddress(is_ipv6=True), ListenAddress(RELAY_IN)
    other = ListenAddress("::1", is_ipv6=True)
    under = [ListenAddress(f"10.0.8.{number}") for number in range(2 * more_addresses(loaded))]
    cases = [((any4,), 1), ((any4, any6), 2), ((one, any4, any6), 2), ((one, other), 2), ((any4, *under, other), 2)]
    for listen, slots in cases:
        with programs_on(*listen) as programs:
            last = programs.tables.ports.row(port_key(slots - 1, LAST + 1))
            assert last + 1 == len(programs.tables.counts.last_seen()) == slots * (LAST + 2 - FIRST)


def test_room_for_addresses_is_limited():
    with programs_on(ListenAddress(RELAY_IN)) as programs:
        for number in range(more_addresses(programs._loaded)):
            programs.host_maps.add_local(f"10.0.8.{number}", 0)
        with pytest.raises(OffloadError, match=r"^10\.0\.9\.9: cannot give it a port space: Argument list too long$"):
            programs.host_maps.add_local("10.0.9.9", 0)


_receiver_ports = itertools.count(LAST + 1000)


class Steered:
    """Sockets that the steering program hands packets to, and what each receives."""

    def __init__(self, programs, *families):
        self.receivers = []
        for family, host in families:
            for _ in range(SOCKETS):
                receiver = socket.socket(family, socket.SOCK_DGRAM)
                # Not to one of the media ports, which the kernel might choose.
                receiver.bind((host, next(_receiver_ports)))
                receiver.setblocking(False)
                self.receivers.append(receiver)
        programs.steer([receiver.fileno() for receiver in self.receivers])

    def send(self, host, port):
        """Number of the socket that a datagram to that port arrives at, None when it is refused."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as phone:
            phone.bind(("", 9))  # a port that the system chooses may be the one that is sent to
            phone.connect((host, port))
            phone.setblocking(False)
            phone.send(b"x")
            readable, _, _ = select.select([*self.receivers, phone], [], [], DEADLINE_S)
            for number, receiver in enumerate(self.receivers):
                if receiver in readable:
                    receiver.recv(10)
                    return number
            with pytest.raises(ConnectionRefusedError):
                phone.recv(10)
        return None

    def close(self):
        for receiver in self.receivers:
            receiver.close()


IPV4, IPV6 = (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")


@pytest.fixture(scope="module")
def namespace():
    with own_namespace():
        yield


def steering(namespace, programs, *families):
    return contextlib.closing(Steered(programs, *families))


def test_steering_by_address_and_port(namespace):
    listen = ListenAddress("127.0.0.1"), ListenAddress("127.0.0.2"), ListenAddress("::1", is_ipv6=True)
    with programs_on(*listen) as programs, steering(namespace, programs, IPV4, IPV6) as steered:
        for slot, address in enumerate(listen):
            programs.mark(port_key(slot, FIRST + 6), True)
            numbers = [steered.send(other.host, FIRST + 6) for other in listen]
            expected = 8 * address.is_ipv6 + (FIRST + 6 >> 1) % SOCKETS
            assert numbers == [expected if other is address else None for other in listen]
            programs.mark(port_key(slot, FIRST + 6), False)


def test_steering_every_port_of_both_families(namespace):
    listen = ListenAddress(), ListenAddress(is_ipv6=True)
    with programs_on(*listen) as programs, steering(namespace, programs, IPV4, IPV6) as steered:
        for slot, hosts in enumerate([("127.0.0.1", "127.0.0.9"), ("::1",)]):
            for port in (*range(FIRST, FIRST + 18), LAST, LAST + 1):
                programs.mark(port_key(slot, port), True)
                for host in hosts:
                    assert steered.send(host, port) == 8 * slot + (port >> 1) % SOCKETS
            for port in (FIRST - 1, LAST + 2):
                assert steered.send(hosts[0], port) is None


def test_steering_ipv6_without_a_port_space(namespace):
    with programs_on(ListenAddress()) as programs, steering(namespace, programs, IPV4) as steered:
        programs.mark(FIRST, True)
        assert steered.send("::1", FIRST) is None
        assert steered.send("127.0.0.1", FIRST) == (FIRST >> 1) % SOCKETS


def test_steering_address_that_joins(namespace):
    with programs_on(ListenAddress("127.0.0.1")) as programs, steering(namespace, programs, IPV4, IPV6) as steered:
        hosts = ["127.0.0.2", "::1"]
        programs.mark(FIRST, True)
        for host in hosts:
            assert steered.send(host, FIRST) is None
            programs.host_maps.add_local(host, 0)
        assert [steered.send(host, FIRST) for host in hosts] == [
            (FIRST >> 1) % SOCKETS,
            8 + (FIRST >> 1) % SOCKETS,
        ]


def test_flood_at_another_address_under_a_wildcard():
    """Dropped where the address is this host's; packets to other machines pass, however many."""
    with programs_on(ListenAddress("")) as programs, DataPlane(programs._loaded, programs.tables) as plane:
        entry = plane.install(port=FIRST)
        programs.mark(entry.key, True)
        programs.host_maps.mark_host(SECOND_HOST, True)
        floods = {
            host: bytes(ethernet() / ipv4(src=STRANGER, dst=host) / UDP(sport=9, dport=FIRST))
            for host in (RELAY_IN, SECOND_HOST, THIRD_HOST)
        }
        for _ in range(10):
            outcomes = {host: plane.run_this_second(entry.key, frame) for host, frame in floods.items()}
        dropped = {"dropped_other_source": 1}
        assert [outcome.counted for outcome in outcomes.values()] == [dropped, dropped, {"up_not_ours": 1}]
        programs.host_maps.mark_host(SECOND_HOST, False)
        assert plane.run(floods[SECOND_HOST]) == Outcome(XDP_PASS, floods[SECOND_HOST], {"up_not_ours": 1})
        with pytest.raises(OffloadError, match=f"{SECOND_HOST}: the list of this host's addresses: No such file"):
            programs.host_maps.mark_host(SECOND_HOST, False)
