"""Addresses and routes as sockets report them, in a namespace of the test."""

import os
import re
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rtpproxy.errors import PortBusyError, StartError
from rtpproxy.media.sockets import (
    bind_port,
    check_local,
    check_ours,
    datagram_socket,
    endpoint_of,
    ipv6_address,
    route_source,
)
from rtpproxy.session.local import LocalAddress
from tests.offload.unprivileged import with_capabilities
from tests.running import own_namespace
from tests.waiting import DEADLINE_S, wait_for

pytestmark = pytest.mark.root

IPV4, IPV6 = LocalAddress(0, "127.0.0.1"), LocalAddress(1, "::1", is_ipv6=True)
FAR, FAR6, NEAR6 = "198.51.100.9", "2001:db8:9::9", "fd00::1"


def has_link_local_address() -> bool:
    """Tell if the kernel sends from it already: it is shown as tentative first, even where nothing is to be awaited."""
    command = ["ip", "-6", "addr", "show", "dev", "near", "scope", "link", "-tentative"]
    return "inet6 fe80:" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def namespace():
    """Loopback, and a link with addresses of both families."""
    with own_namespace():
        for scope in ("all", "default"):  # so that the link-local address is there at once
            Path(f"/proc/sys/net/ipv6/conf/{scope}/accept_dad").write_text("0")
        for command in (
            "link add near type veth peer name far",
            "addr add 10.0.0.1/24 dev near",
            f"addr add {NEAR6}/64 dev near nodad",
            "link set near up",
            "link set far up",
            f"route add {FAR} via 10.0.0.2 dev near",
            f"route add {FAR6} via fd00::2 dev near",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        wait_for(has_link_local_address, DEADLINE_S, "the link's own address, which comes after its carrier")
        yield


ROUTES = [
    ("127.0.0.1", "127.0.0.1"),
    ("10.0.0.7", "10.0.0.1"),
    (FAR, "10.0.0.1"),
    ("192.0.2.1", None),
    ("::1", "::1"),
    ("fd00::7", NEAR6),
    (FAR6, NEAR6),
    ("2001:db8::1", None),
    ("fe80::7", None),  # of which link?
]


@pytest.mark.parametrize(("to", "expected"), ROUTES)
def test_route_tells_the_source(namespace, to, expected):
    assert route_source(to) == expected


ASK = """
import os, sys
from rtpproxy.media.sockets import route_source
before = len(os.listdir("/proc/self/fd"))
print(*map(route_source, sys.argv[1:]))
assert len(os.listdir("/proc/self/fd")) == before
"""


def test_route_tells_the_source_to_everybody(namespace):
    """Without CAP_NET_RAW."""
    command = [*with_capabilities(), sys.executable, "-c", ASK, *(to for to, _ in ROUTES)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert (done.stderr, done.stdout.split()) == ("", [str(expected) for _, expected in ROUTES])


def test_source_of_a_link_local_way_has_its_zone(namespace):
    index = socket.if_nametoindex("near")
    source = route_source(f"fe80::7%{index}")
    assert source is not None
    assert source.startswith("fe80::")
    assert source.endswith(f"%{index}")


def test_asking_for_routes_leaves_no_descriptor(namespace):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        for to, _ in ROUTES:
            route_source(to)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("to", ["127.0.0.1", "::1"])
def test_no_route_is_found_without_descriptors(namespace, to):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert route_source(to) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_asking_for_routes_needs_no_ephemeral_port(namespace):
    Path("/proc/sys/net/ipv4/ip_local_reserved_ports").write_text("1-65535\n")
    assert route_source(FAR) == "10.0.0.1"
    assert route_source(FAR6) == NEAR6


@pytest.mark.parametrize("address", [IPV4, IPV6, LocalAddress(0), LocalAddress(1, is_ipv6=True)])
def test_addresses_of_ours(namespace, address):
    """Also when no port is left."""
    Path("/proc/sys/net/ipv4/ip_local_reserved_ports").write_text("1-65535\n")
    check_ours(address)


@pytest.mark.parametrize("address", [LocalAddress(0, "192.0.2.250"), LocalAddress(1, "2001:db8::1", is_ipv6=True)])
def test_address_that_is_not_ours(namespace, address):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Cannot assign requested address"):
        check_ours(address)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("address", [IPV4, IPV6])
def test_busy_is_told_from_what_is_not_ours(namespace, address):
    family = socket.AF_INET6 if address.is_ipv6 else socket.AF_INET
    with datagram_socket(family) as holder, datagram_socket(family) as other:
        bind_port(holder, address, 20000)
        with pytest.raises(PortBusyError, match="port 20000: Address already in use"):
            bind_port(other, address, 20000)
        foreign = LocalAddress(0, "2001:db8::1" if address.is_ipv6 else "192.0.2.250", address.is_ipv6)
        with pytest.raises(OSError, match="Cannot assign"):
            bind_port(other, foreign, 20000)


@pytest.mark.parametrize(
    ("reported", "endpoint"),
    [(("2001:db8::1", 5004, 0, 0), ("2001:db8::1", 5004)), (("fe80::1", 5004, 0, 7), ("fe80::1%7", 5004))],
)
def test_hosts_keep_the_zone_that_sockets_tell_apart(reported, endpoint):
    assert endpoint_of(reported) == endpoint
    assert ipv6_address(*endpoint) == reported


def test_link_local_host_without_zone_is_no_address():
    with pytest.raises(OSError, match="of which link"):
        ipv6_address("fe80::1", 5004)


def local(host):
    """Our address with that host; `*` and `::` are all of a family."""
    return LocalAddress(0, "" if host in ("*", "::") else host, is_ipv6=":" in host)


def test_listen_address_must_be_ours(namespace):
    for host in ("*", "127.0.0.1", "127.0.0.2", "::", "::1"):
        check_local(local(host))
    for host in ("192.0.2.250", "2001:db8::1"):
        with pytest.raises(StartError, match=f"^listen address {re.escape(host)} cannot be used: Cannot assign"):
            check_local(local(host))


def test_link_local_listen_address_is_refused(namespace):
    """It would need a zone, which the options cannot express."""
    with pytest.raises(StartError, match=r"^listen address fe80::1 cannot be used: Invalid argument"):
        check_local(local("fe80::1"))


def test_listen_address_without_ipv6(namespace):
    Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
    with pytest.raises(StartError, match=r"^listen address ::1 cannot be used: "):
        check_local(local("::1"))


def test_listen_address_is_checked_without_an_ephemeral_port(namespace):
    Path("/proc/sys/net/ipv4/ip_local_reserved_ports").write_text("1-65535\n")
    check_local(local("127.0.0.1"))
