"""Names of hosts, and of interfaces given in place of an address."""

import contextlib
import re
import socket
import subprocess

import pytest

from rtpproxy.cli.host import check_no_interface, look_nothing_up, look_up
from rtpproxy.errors import ConfigError
from tests.running import own_namespace

LOOPBACK = "but lo is an interface; its addresses are 127.0.0.1; give one of them"


@pytest.fixture
def no_resolver(monkeypatch):
    """A resolver that must not be asked."""
    monkeypatch.setattr(socket, "getaddrinfo", None)


@pytest.mark.parametrize("look", [look_up, look_nothing_up])
def test_interface_is_named_as_such_without_asking_a_name_server(no_resolver, look):
    with pytest.raises(ConfigError, match=f"^{re.escape(LOOPBACK)}"):
        look("lo", False)


@pytest.fixture
def interface():
    """Makes the interface media0 in a namespace of the test; returns a function that gives it addresses."""
    with own_namespace():

        def add(*addresses):
            for address in addresses:
                subprocess.run(["ip", "addr", "add", address, "dev", "media0", "nodad"], check=True)

        subprocess.run(["ip", "link", "add", "media0", "type", "veth"], check=True)
        yield add


@pytest.mark.root
@pytest.mark.parametrize(
    ("is_ipv6", "hosts"),
    [
        (False, "192.0.2.1, 198.51.100.7"),
        (True, "2001:db8::5"),
        (None, "192.0.2.1, 198.51.100.7, 2001:db8::5"),
    ],
)
def test_addresses_of_the_family_are_listed(interface, is_ipv6, hosts):
    interface("fe80::1/64", "2001:db8::5/64", "192.0.2.1/24", "198.51.100.7/24")
    with pytest.raises(ConfigError, match=f"^but media0 is an interface; its addresses are {hosts}; give one of them$"):
        check_no_interface("media0", is_ipv6)


@pytest.mark.root
@pytest.mark.parametrize(("is_ipv6", "family"), [(False, "IPv4 "), (True, "IPv6 "), (None, "")])
def test_interface_without_an_address(interface, is_ipv6, family):
    interface("fe80::1/64")
    with pytest.raises(ConfigError, match=f"^but media0 is an interface, and has no {family}address$"):
        check_no_interface("media0", is_ipv6)


@pytest.mark.parametrize("name", ["localhost", "nosuch0", "", "a\0b", "x" * 200, "\udcff"])
def test_other_names_are_no_interfaces(name):
    check_no_interface(name, None)


def test_names_are_resolved():
    assert look_up("localhost", False) == "127.0.0.1"
    with contextlib.suppress(ConfigError):
        assert look_up("localhost", True) == "::1"


def test_no_resolve_forbids_names(no_resolver):
    with pytest.raises(ConfigError, match=r"^and --no_resolve forbids names$"):
        look_nothing_up("localhost", False)
