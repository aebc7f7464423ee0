"""The lists of docs/security.md for an edge and for a core do what the page says of them."""

import shlex

import pytest

from rtpproxy.cli.networks import read_media_network
from rtpproxy.config import ListenAddress
from rtpproxy.session.reach import Reach
from tests.docs.pages import DOCS, section_blocks


def reach(number):
    """The rules with a list of the page: the edge's is the first, the core's the second."""
    words = shlex.split(section_blocks(DOCS / "security.md", "What a call may reach")[number])
    lists = {"--media-allow": [], "--media-deny": []}
    for option, network in zip(words[::2], words[1::2], strict=True):
        lists[option].append(read_media_network(network))
    return Reach([ListenAddress()], lists["--media-allow"], lists["--media-deny"])


def is_refused(number, host, port=20000):
    why = reach(number).refusal((host, port), is_from_loopback=False)
    assert not why or why.startswith("--media-deny ")
    return bool(why)


@pytest.mark.parametrize(
    "host", ["10.0.0.5", "172.20.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "fd00::1", "fe80::1%eth0"]
)
def test_an_edge_sends_nothing_inside(host):
    assert is_refused(0, host)


@pytest.mark.parametrize("host", ["198.51.100.7", "172.32.0.1", "100.128.0.1", "2001:db8::7"])
def test_an_edge_reaches_phones_anywhere(host):
    assert not is_refused(0, host)


@pytest.mark.parametrize("host", ["10.20.3.4", "2001:db8:20::9"])
def test_a_core_reaches_its_gateways(host):
    assert not is_refused(1, host, 16384)
    assert not is_refused(1, host, 32767)
    assert is_refused(1, host, 16383)
    assert is_refused(1, host, 32768)


@pytest.mark.parametrize("host", ["10.21.0.1", "198.51.100.7", "2001:db8:21::9"])
def test_a_core_reaches_nothing_else(host):
    assert is_refused(1, host)
