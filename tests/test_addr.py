"""Addresses as values and as text."""

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.addr import (
    Endpoint,
    ipv4_number,
    is_ipv6,
    is_link_local,
    is_public,
    packed_words,
    parse_ipv4,
    parse_ipv6,
    parse_network,
    without_mapping,
)


def test_endpoint_is_what_a_socket_reports():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        reported = opened.getsockname()
    assert Endpoint(*reported) == reported
    assert hash(Endpoint(*reported)) == hash(reported)


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [(Endpoint("192.0.2.1", 4000), "192.0.2.1:4000"), (Endpoint("2001:db8::1", 4000), "[2001:db8::1]:4000")],
)
def test_endpoint_as_text(endpoint, text):
    assert str(endpoint) == text


@pytest.mark.parametrize("text", ["0.0.0.0", "127.0.0.1", "255.255.255.255"])
def test_full_dotted_form(text):
    assert parse_ipv4(text) == text


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.1", (False, False)),
        ("2001:db8::1", (True, False)),
        ("fe80::1%3", (True, True)),
        ("febf::1", (True, True)),
    ],
)
def test_family_and_scope(host, expected):
    assert (is_ipv6(host), is_link_local(host)) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:1:2", "::ffff:1:2"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_ipv4_as_a_dual_stack_socket_reports_it(host, expected):
    assert without_mapping(host) == expected


def test_words_of_an_address():
    assert packed_words("192.0.2.1") == [0xC000, 0x0201]
    assert packed_words("2001:db8::1") == [0x2001, 0xDB8, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f.0.1", "127.0.0.1"),
        ("0X7F000001", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("1.2.65535", "1.2.255.255"),
        ("0", "0.0.0.0"),
        ("0x0", "0.0.0.0"),
        ("4294967295", "255.255.255.255"),
    ],
)
def test_forms_of_the_c_library(text, expected):
    assert parse_ipv4(text) == expected
    assert socket.inet_ntoa(socket.inet_aton(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "1.",
        ".1",
        "1..2",
        "256.0.0.1",
        "1.2.65536",
        "4294967296",
        "08",
        "0x",
        "-1",
        "+1",
        "1.2.3.4.5",
        "1.2.3.4.0",
        "1.2.3.x",
    ],
)
def test_no_ipv4_address(text):
    assert parse_ipv4(text) is None


@pytest.mark.parametrize("text", ["1.2.3.4 ", " 1.2.3.4", "1.2.3.4\n", "١.2.3.4", "1.2.3.4 x"])  # noqa: RUF001
def test_nothing_may_stand_around_or_within(text):
    assert parse_ipv4(text) is None


@given(st.lists(st.text("0123456789abcfxX", max_size=5), max_size=5).map(".".join))
def test_agrees_with_the_c_library(text):
    try:
        expected = socket.inet_ntoa(socket.inet_aton(text))
    except OSError:
        expected = None
    assert parse_ipv4(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("::1", "::1"), ("2001:DB8:0::0005", "2001:db8::5"), ("::ffff:192.0.2.1", "::ffff:c000:201"), ("::", "::")],
)
def test_ipv6_in_canonical_form(text, expected):
    assert ipaddress.ip_address(parse_ipv6(text)) == ipaddress.ip_address(expected)


@pytest.mark.parametrize("text", ["", "1.2.3.4", "fe80::1%eth0", ":::", "2001:db8::g", "[::1]"])
def test_no_ipv6_address(text):
    assert parse_ipv6(text) is None


@given(st.ip_addresses(v=4))
def test_number_of_an_address(address):
    assert ipv4_number(str(address)) == int(address)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("8.8.8.8", True),
        ("192.0.2.1", True),
        ("172.15.255.255", True),
        ("172.32.0.0", True),
        ("100.63.255.255", True),
        ("100.128.0.0", True),
        ("223.255.255.255", True),
        ("2001:db8::1", True),
        ("2600::1", True),
        ("::ffff:8.8.8.8", True),
        ("0.0.0.0", False),
        ("0.1.2.3", False),
        ("10.1.2.3", False),
        ("100.64.0.0", False),
        ("100.127.255.255", False),
        ("127.0.0.1", False),
        ("169.254.1.1", False),
        ("172.16.0.0", False),
        ("172.31.255.255", False),
        ("192.168.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("fdff::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
    ],
)
def test_public_addresses(host, expected):
    assert is_public(host) is expected


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::/0", "::/0"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::/96", "::/96"),
    ],
)
def test_networks(text, network):
    assert str(parse_network(text)) == network


@pytest.mark.parametrize(
    "text", ["", "/8", "10.1.2.3/8", "10.0.0.0/33", "10.0.0", "host.example", "fe80::1%eth0", "2001:db8::1/32", "1"]
)
def test_no_networks(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_network(text)
