"""UDP control sockets that are bound first of all; process/test_daemon shows when."""

import os
import socket
import subprocess
import sys

import pytest

from rtpproxy.cli.early import bind_early
from tests.ports import free_port


@pytest.fixture
def bound():
    """Returns a function that binds early and tells where; what it bound is closed after the test."""
    opened = []

    def bind(*arguments):
        found = [socket.socket(fileno=number) for number in bind_early(list(arguments))]
        opened.extend(found)
        assert not any(one.get_inheritable() for one in found)
        return [(one.type, *one.getsockname()[:2]) for one in found]

    yield bind
    for one in opened:
        one.close()


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("udp:127.0.0.1:{}", "127.0.0.1"),
        ("udp:*:{}", "0.0.0.0"),
        ("udp6:::1:{}", "::1"),
        ("udp6:[::1]:{}", "::1"),
        ("udp6:*:{}", "::"),
    ],
)
def test_where_it_is_bound(bound, text, host):
    port = free_port(host, socket.SOCK_DGRAM)
    assert bound("-f", "-s", text.format(port), "-d", "INFO") == [(socket.SOCK_DGRAM, host, port)]


def test_in_one_argument_and_several_times(bound):
    ports = [free_port("127.0.0.1", socket.SOCK_DGRAM) for _ in range(2)]
    found = bound(f"-sudp:127.0.0.1:{ports[0]}", "-s", "unix:/run/s", "-s", f"udp:127.0.0.1:{ports[1]}")
    assert {port for _, _, port in found} == set(ports)


def test_both_families_on_one_port(bound):
    port = free_port("::", socket.SOCK_DGRAM)
    assert len(bound("-s", f"udp:*:{port}", "-s", f"udp6:*:{port}")) == 2


@pytest.mark.parametrize(
    "text",
    [
        *("", "udp", "udp:", "udp:9000", "udp::9000", "udp:localhost:9000", "udp:127.0.0.1:", "udp:127.0.0.1:x"),
        *("udp:127.0.0.1:70000", "udp:127.0.0.1:\u0663", "udp:::1:9000", "udp6:127.0.0.1:9000", "udp:192.0.2.1:9000"),
        *("udp6:fe80::1%lo:9000", "udp:127.1:9000", "tcp:127.0.0.1:9000", "/run/udp:1.2.3.4:5"),
        # Bytes that are no UTF-8, and a number that Python refuses to convert.
        *("udp:\udcff:9000", "udp6:\udcff:9000", "udp:127.0.0.\u0661:9000", f"udp:127.0.0.1:{'1' * 5000}"),
    ],
)
def test_what_is_left_to_those_who_read_the_options(bound, text):
    assert bound("-s", text) == bound(f"-s{text}") == []


def test_no_arguments(bound):
    assert bound() == bound("-s") == []


def test_port_in_use(bound):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        assert bound("-s", f"udp:127.0.0.1:{other.getsockname()[1]}") == []


def test_standard_descriptors_are_not_taken():
    """Where they are closed, whatever is opened next gets their numbers, and what is printed."""
    port = free_port("127.0.0.1", socket.SOCK_DGRAM)
    code = f"from rtpproxy.cli.early import bind_early\nassert bind_early(['-s', 'udp:127.0.0.1:{port}']) == []"
    command = ["sh", "-c", 'exec 0<&- "$0" "$@"', sys.executable, "-c", code]
    assert subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode == 0


def test_no_socket_to_be_had():
    """As of IPv6 on a host that has none: why, is said once the options are read."""
    code = (
        "import resource\nfrom rtpproxy.cli.early import bind_early\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "assert bind_early(['-s', 'udp:127.0.0.1:0']) == []"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_little_is_imported_for_it():
    """Otherwise it were no longer early."""
    code = "import sys, rtpproxy.__main__\nprint(*(name for name in sys.modules if name.startswith('rtpproxy')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.sep)
    assert set(done.stdout.split()) == {"rtpproxy", "rtpproxy.__main__", "rtpproxy.cli", "rtpproxy.cli.early"}
