"""NET, as `--control-allow` takes it, and NET[:PORTS], as `--media-allow` and `--media-deny` do."""

import re
from ipaddress import ip_network

import pytest

from rtpproxy.cli.networks import read_media_network, read_network
from rtpproxy.config import MediaNetwork
from rtpproxy.errors import ConfigError


@pytest.mark.parametrize("text", ["192.0.2.7", "10.0.0.0/8", "2001:db8::/32", "::1"])
def test_networks(text):
    assert read_network(text) == ip_network(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("host.example", "not an address or a network, such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32"),
        ("10.0.0.0/33", "not an address or a network"),
        ("", "not an address or a network"),
        ("fe80::1%eth0", "not an address or a network"),
        (
            "10.1.2.3/8",
            "the network begins with another address; write 10.0.0.0/8 for all of it, or 10.1.2.3 for that host alone",
        ),
        ("2001:db8::1/32", "write 2001:db8::/32 for all of it"),
    ],
)
def test_no_networks(text, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        read_network(text)


@pytest.mark.parametrize(
    ("text", "network", "ports"),
    [
        ("10.0.0.0/8", "10.0.0.0/8", ()),
        ("192.0.2.1", "192.0.2.1/32", ()),
        ("0.0.0.0/0", "0.0.0.0/0", ()),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8", ()),
        ("192.0.2.1:5004", "192.0.2.1/32", (5004, 5004)),
        ("10.0.0.0/8:1-65535", "10.0.0.0/8", (1, 65535)),
        ("2001:db8::/32", "2001:db8::/32", ()),
        ("2001:DB8:0::1", "2001:db8::1/128", ()),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8", ()),
        ("::/0", "::/0", ()),
        ("[2001:db8::/32]", "2001:db8::/32", ()),
        ("[2001:db8::/32]:16384-32767", "2001:db8::/32", (16384, 32767)),
        ("[2001:db8::]/32:9", "2001:db8::/32", (9, 9)),
        ("[::1]:5004", "::1/128", (5004, 5004)),
    ],
)
def test_networks_for_media(text, network, ports):
    assert read_media_network(text) == MediaNetwork(ip_network(network), *ports)


NO_NETWORK = "not an address or a network, such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32"
NO_PORTS = "after the network comes one port, such as :5004, or a range, such as :16384-32767"
NO_NUMBERS = "ports are numbers from 1 to 65535, the lower one of a range first"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *((text, NO_NETWORK) for text in ("", "phone.example", "eth0:5004", "*", "10.0.0.0/33", "10.0.0.0/8/8")),
        *((text, NO_NETWORK) for text in ("10.0/8", "[]:5004", "[2001:db8::/32", "[2001:db8::/32]5004")),
        *((text, NO_NETWORK) for text in ("2001:db8::/32:5004", "fe80::1%eth0", "[fe80::1%eth0]:5004")),
        ("10.0.0.1/8", "write 10.0.0.0/8 for all of it"),
        ("[2001:db8::1]/32:9", "write 2001:db8::/32 for all of it"),
        *((f"10.0.0.0/8:{ports}", NO_PORTS) for ports in ("", "sip", "5004,5006", "-5", "5-", "123456")),
        *((f"[::1]:{ports}", NO_PORTS) for ports in ("", "sip")),
        *((f"10.0.0.0/8:{ports}", NO_NUMBERS) for ports in ("0", "65536", "9-8", "0-9")),
    ],
)
def test_no_networks_for_media(text, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        read_media_network(text)
