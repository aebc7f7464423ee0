"""Values in network order, against the standard library's own way."""

import ipaddress
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.addr import packed_words
from rtpproxy.offload.network_order import (
    address4,
    address6,
    mac_bytes,
    mapped_address,
    ones_sum,
    port_bytes,
    tag_bytes,
)

ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(str)


@given(ipv4)
def test_ipv4_address(host):
    words = packed_words(host)
    assert address4(words).to_bytes(4, sys.byteorder) == socket.inet_aton(host)
    assert address6(words) == b""


@given(ipv6)
def test_ipv6_address(host):
    words = packed_words(host)
    assert address6(words) == mapped_address(host) == ipaddress.IPv6Address(host).packed
    assert address4(words) == 0


@given(ipv4)
def test_mapped_address(host):
    assert mapped_address(host) == ipaddress.IPv6Address(f"::ffff:{host}").packed


def test_ports():
    assert port_bytes((0x1234, 5)) == b"\x12\x34\0\5"


def test_mac():
    assert mac_bytes("02:0a:0b:0c:0d:fe") == b"\x02\x0a\x0b\x0c\x0d\xfe"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [((), b""), (((0x8100, 5),), b"\x81\0\0\5"), (((0x88A8, 7), (0x8100, 4094)), b"\x88\xa8\0\7\x81\0\x0f\xfe")],
)
def test_tags(tags, expected):
    assert tag_bytes(tags) == expected


@given(st.lists(st.integers(0, 65535), max_size=40))
def test_ones_sum(words):
    total = ones_sum(words)
    assert 0 <= total <= 0xFFFF
    assert total % 65535 == sum(words) % 65535
    assert (total == 0) == (sum(words) == 0)
