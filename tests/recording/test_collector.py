"""Sending to a collector that is there, down, slow, or started again, by UDP and TCP. The time is an argument."""

import contextlib
import socket
import struct

import pytest

from rtpproxy.recording import collector
from rtpproxy.recording.collector import CONNECT_TIMEOUT_NS, FIRST_WAIT_NS, LONGEST_WAIT_NS, MOST_PACKETS, Collector
from tests.waiting import DEADLINE_S, wait_for

NEVER_NS = 1 << 62


class Driven:
    """A collector with a clock that goes on when it is told to."""

    def __init__(self, host, port, *, is_tcp):
        self.collector = Collector(host, port, is_tcp=is_tcp)
        self.now_ns = 1_000_000_000_000

    def work(self, after_ns=0):
        self.now_ns += after_ns
        self.collector.work(self.now_ns)

    def until(self, condition, what):
        """Work, without time going by, until something is true."""

        def look():
            self.work()
            return condition()

        wait_for(look, DEADLINE_S, what)

    def send(self, *packets):
        for packet in packets:
            self.collector.send(packet)

    @property
    def counts(self):
        return self.collector.sent, self.collector.lost


@contextlib.contextmanager
def driven(host, port, *, is_tcp):
    made = Driven(host, port, is_tcp=is_tcp)
    try:
        yield made
    finally:
        made.collector.close(made.now_ns)


@contextlib.contextmanager
def udp_server(port=0, family=socket.AF_INET, host="127.0.0.1"):
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((host, port))
        server.settimeout(30)
        yield server


@contextlib.contextmanager
def tcp_server(port=0, receive_bytes=None):
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_bytes:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        server.bind(("127.0.0.1", port))
        server.listen()
        server.settimeout(30)
        yield server


def accept(server):
    opened, _ = server.accept()
    opened.settimeout(30)
    return opened


def receive(opened, size):
    data = b""
    while len(data) < size:
        some = opened.recv(size - len(data))
        assert some, f"closed after {data!r}"
        data += some
    return data


def reset(opened):
    """Close a connection by a reset."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    opened.close()


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


# UDP


def test_udp():
    with udp_server() as server, driven("127.0.0.1", server.getsockname()[1], is_tcp=False) as one:
        one.work()
        one.send(b"one", b"two")
        assert [server.recv(100), server.recv(100)] == [b"one", b"two"]
        assert one.counts == (2, 0)
        assert (one.collector.why, one.collector.trouble) == ("", "")
        assert one.collector.due_ns(one.now_ns) is None


def test_udp_packets_wait_for_an_address():
    with udp_server() as server, driven("127.0.0.1", server.getsockname()[1], is_tcp=False) as one:
        one.send(b"one", b"two")
        assert one.counts == (0, 0)
        one.work()
        assert [server.recv(100), server.recv(100)] == [b"one", b"two"]
        assert one.counts == (2, 0)


def test_udp_by_ipv6():
    with udp_server(0, socket.AF_INET6, "::1") as server, driven("::1", server.getsockname()[1], is_tcp=False) as one:
        one.work()
        one.send(b"one")
        assert server.recv(100) == b"one"


def test_udp_by_name():
    with udp_server() as server, driven("localhost", server.getsockname()[1], is_tcp=False) as one:
        one.send(b"one")
        one.until(lambda: one.counts == (1, 0), "the name to be found")
        if one.collector._socket.family == socket.AF_INET:
            assert server.recv(100) == b"one"


def test_udp_to_nobody():
    """Every packet is counted as lost, but the last: of that one, nobody has told yet."""
    port = free_port(socket.SOCK_DGRAM)
    with driven("127.0.0.1", port, is_tcp=False) as one:
        one.work()
        one.send(*[b"lost"] * 100)
        assert one.counts == (1, 99)
        assert one.collector.why == "Connection refused"
        with udp_server(port) as server:
            one.send(b"taken")
            assert server.recv(100) == b"taken"
        assert one.counts == (1, 100)


def test_udp_looks_up_again_where_packets_are_refused(monkeypatch):
    lookups = []
    plain = collector.Lookup

    def look_up(*about):
        lookups.append(about)
        return plain(*about)

    monkeypatch.setattr(collector, "Lookup", look_up)
    with driven("127.0.0.1", free_port(socket.SOCK_DGRAM), is_tcp=False) as one:
        one.work()
        one.work(LONGEST_WAIT_NS)
        assert len(lookups) == 1
        one.send(b"lost", b"lost")
        one.work()
        assert len(lookups) == 2
        one.send(b"lost", b"lost")
        one.work()
        assert len(lookups) == 2
        one.work(LONGEST_WAIT_NS)
        assert len(lookups) == 3


def test_udp_tries_the_next_address_where_packets_are_refused(monkeypatch):
    with udp_server() as server:
        port = server.getsockname()[1]

        def find_two(host, port, **_):
            return [(socket.AF_INET, None, None, None, (one, port)) for one in ("127.0.0.2", "127.0.0.1")]

        monkeypatch.setattr(socket, "getaddrinfo", find_two)
        with driven("two.example", port, is_tcp=False) as one:
            one.work()
            one.send(b"lost", b"lost")
            one.work(LONGEST_WAIT_NS)
            one.send(b"taken")
            assert server.recv(100) == b"taken"
            one.work(LONGEST_WAIT_NS)
            one.send(b"taken, too")
            assert server.recv(100) == b"taken, too"


def test_udp_packets_that_the_kernel_does_not_take():
    with udp_server() as server, driven("127.0.0.1", server.getsockname()[1], is_tcp=False) as one:
        one.work()
        one.send(bytes(70_000), b"one")
        assert server.recv(100) == b"one"
        assert one.counts == (1, 1)
        assert one.collector.why == "Message too long"


def test_unknown_name():
    with driven("no-such-host.invalid", 9060, is_tcp=False) as one:
        one.send(b"waits in vain")
        one.until(lambda: "address cannot be found" in one.collector.trouble, "the answer that there is no such host")
        assert 0 < one.collector.due_ns(one.now_ns) <= FIRST_WAIT_NS
        one.send(b"lost")
        assert one.counts == (0, 2)


def test_end_while_the_address_is_looked_up():
    with driven("no-such-host.invalid", 9060, is_tcp=False) as one:
        one.send(b"lost")
    assert one.counts == (0, 1)


# TCP


@contextlib.contextmanager
def accept_working(one, server):
    """Let it connect."""
    one.until(lambda: one.collector._is_connected, "a connection")
    with accept(server) as opened:
        yield opened


@contextlib.contextmanager
def connected(receive_bytes=None):
    """A collector, and its connection at the other end."""
    with (
        tcp_server(receive_bytes=receive_bytes) as server,
        driven("127.0.0.1", server.getsockname()[1], is_tcp=True) as one,
        accept_working(one, server) as opened,
    ):
        yield one, opened


def test_tcp():
    with connected() as (one, opened):
        one.send(b"one", b"two")
        one.work()
        assert one.counts == (2, 0)
        assert receive(opened, 6) == b"onetwo"
        assert one.collector.due_ns(one.now_ns) is None


def test_tcp_down_then_up():
    port = free_port()
    with driven("127.0.0.1", port, is_tcp=True) as one:
        one.send(b"waits")
        one.until(lambda: one.collector.trouble == "cannot connect: Connection refused", "a refusal")
        assert one.counts == (0, 0)
        with tcp_server(port) as server:
            one.work(FIRST_WAIT_NS)
            with accept_working(one, server) as opened:
                assert receive(opened, 5) == b"waits"
    assert one.counts == (1, 0)


def test_waits_between_attempts_grow():
    with driven("127.0.0.1", free_port(), is_tcp=True) as one:
        waits = []
        for _ in range(9):
            one.until(lambda: one.collector._socket is None and one.collector._until_ns > one.now_ns, "a refusal")
            waits.append(one.collector.due_ns(one.now_ns))
            one.work(waits[-1] - 1)
            assert one.collector.due_ns(one.now_ns) == 1
            one.work(1)
    assert waits == [min(FIRST_WAIT_NS << count, LONGEST_WAIT_NS) for count in range(9)]


def test_tcp_that_does_not_answer():
    """The other host drops what asks for a connection, as one behind a firewall does."""
    with tcp_server() as server:
        server.listen(0)
        port = server.getsockname()[1]
        with contextlib.ExitStack() as others:
            for _ in range(3):  # fill its queue: the kernel drops more
                other = others.enter_context(socket.socket())
                other.setblocking(False)
                other.connect_ex(("127.0.0.1", port))
            with driven("127.0.0.1", port, is_tcp=True) as one:
                one.work()
                one.work(CONNECT_TIMEOUT_NS - 1)
                assert one.collector._socket is not None
                one.work(1)
                assert one.collector.trouble == "cannot connect: no answer"


def test_tcp_that_does_not_read():
    """Packets wait up to a limit, and whole ones are dropped above it; what waited is sent once it reads."""
    packet = b"HEP3" + bytes(996)
    with connected(receive_bytes=4096) as (one, opened):
        count = 0
        while one.collector.lost < 100:
            one.send(packet)
            one.work()
            count += 1
        assert len(one.collector._backlog) <= MOST_PACKETS
        assert one.collector.why == "it does not take what waits for it"
        taken = count - 100
        opened.settimeout(0.01)
        data = bytearray()

        def read_some():
            with contextlib.suppress(TimeoutError):
                data.extend(opened.recv(1 << 20))
            return len(data) >= taken * len(packet)

        one.until(read_some, "what was taken")
        assert bytes(data) == packet * taken
        assert one.counts == (taken, 100)


@pytest.mark.parametrize("end", [reset, socket.socket.close])
def test_tcp_that_is_restarted(end):
    """What it did not take is sent to the next one, as whole packets, from the beginning."""
    packets = [b"HEP3%09d" % number + bytes(9987) for number in range(200)]
    with tcp_server(receive_bytes=4096) as server:
        port = server.getsockname()[1]
        with driven("127.0.0.1", port, is_tcp=True) as one:
            one.send(*packets)
            with accept_working(one, server) as opened:
                one.work()
                assert receive(opened, 10_000 + 5000) == (packets[0] + packets[1])[:15_000]
                end(opened)
            one.until(lambda: not one.collector._is_connected, "the end to be noticed")
            one.work(FIRST_WAIT_NS)
            with accept_working(one, server) as again:
                first = receive(again, 10_000)
                number = int(first[4:13])
                assert first == packets[number]
                assert number > 0
                rest = b"".join(packets[number + 1 :])
                opened_data = bytearray()

                def read_some():
                    again.settimeout(0.01)
                    with contextlib.suppress(TimeoutError):
                        opened_data.extend(again.recv(1 << 20))
                    return len(opened_data) >= len(rest)

                one.until(read_some, "the rest")
                assert bytes(opened_data) == rest
                assert one.counts == (200, 0)


def test_end_while_packets_wait():
    """They are sent if the collector takes them, and lost if not."""
    with connected() as (one, opened):
        one.send(*[b"last"] * 1000)
        one.collector.close(one.now_ns)
        assert receive(opened, 4000) == b"last" * 1000
        assert one.counts == (1000, 0)


def test_end_while_it_does_not_read():
    with connected(receive_bytes=4096) as (one, _):
        one.send(*[bytes(10_000)] * 400)
        one.collector.close(one.now_ns)
        assert one.collector.lost > 0
        assert sum(one.counts) == 400
        one.collector.close(one.now_ns)
        assert sum(one.counts) == 400


def test_end_while_it_is_down():
    with driven("127.0.0.1", free_port(), is_tcp=True) as one:
        one.send(b"lost")
        one.until(lambda: "refused" in one.collector.trouble, "a refusal")
    assert one.counts == (0, 1)
    assert one.collector.why == "cannot connect: Connection refused"


def test_it_talks():
    """A collector that sends more than is read keeps nothing from being sent to it."""
    with connected() as (one, opened):
        opened.sendall(bytes(100_000))
        one.send(b"one")
        one.work()
        assert receive(opened, 3) == b"one"
