"""Looking up the address of a host without waiting for it."""

import socket

from rtpproxy.recording.resolving import Found, Lookup
from tests.waiting import DEADLINE_S, wait_for

UDP = socket.SOCK_DGRAM


def found(host, port=9060, kind=UDP):
    lookup = Lookup(host, port, kind)
    wait_for(lambda: lookup.is_done, DEADLINE_S, f"an answer about {host}")
    return lookup.result()


def test_numeric_hosts_are_found_at_once():
    lookup = Lookup("192.0.2.1", 9060, UDP)
    assert lookup.is_done
    assert lookup.result() == ([Found(socket.AF_INET, ("192.0.2.1", 9060))], "")
    assert Lookup("2001:db8::1", 1, UDP).result() == ([Found(socket.AF_INET6, ("2001:db8::1", 1, 0, 0))], "")


def test_name():
    addresses, why = found("localhost", kind=socket.SOCK_STREAM)
    assert why == ""
    assert Found(socket.AF_INET, ("127.0.0.1", 9060)) in addresses


def test_unknown_name():
    addresses, why = found("no-such-host.invalid")
    assert addresses == []
    assert why


def test_name_that_is_none():
    addresses, why = found("x" * 70 + ".example")
    assert addresses == []
    assert why
