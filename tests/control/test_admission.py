"""Whose commands are executed (`--control-allow`)."""

import logging

import pytest

from rtpproxy.addr import parse_network
from rtpproxy.control.admission import Admission


def admission(*networks):
    return Admission(tuple(map(parse_network, networks)))


def test_everybody_is_admitted_by_default():
    everybody = admission()
    assert all(everybody.admits(host) for host in ("", "127.0.0.1", "198.51.100.7", "2001:db8::7"))
    assert everybody.ignored == 0


def test_files_protect_sockets_without_a_host():
    assert admission("192.0.2.1").admits("")


@pytest.mark.parametrize(
    ("network", "admitted", "ignored"),
    [
        ("192.0.2.1", ["192.0.2.1", "::ffff:192.0.2.1"], ["192.0.2.2", "::c000:201", "127.0.0.1"]),
        ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"], ["9.255.255.255", "11.0.0.0", "::1"]),
        ("::ffff:10.0.0.0/104", ["10.1.2.3", "::ffff:10.1.2.3"], ["11.0.0.0"]),
        ("2001:db8::/32", ["2001:db8::", "2001:db8:ffff::1"], ["2001:db7::1", "192.0.2.1", "::ffff:192.0.2.1"]),
        ("fe80::/10", ["fe80::1"], ["fec0::1"]),
        ("0.0.0.0/0", ["203.0.113.9", "::ffff:203.0.113.9"], ["2001:db8::1", "::1"]),
        ("::/0", ["2001:db8::1", "::1"], ["203.0.113.9", "::ffff:203.0.113.9"]),
    ],
)
def test_hosts_of_a_network(network, admitted, ignored):
    rule = admission(network)
    assert [host for host in admitted if not rule.admits(host)] == []
    assert [host for host in ignored if rule.admits(host)] == []
    assert rule.ignored == len(ignored)


def test_any_of_several_networks_admits():
    rule = admission("192.0.2.1", "2001:db8::/32")
    assert rule.admits("192.0.2.1")
    assert rule.admits("2001:db8::7")
    assert not rule.admits("192.0.2.2")


def test_few_of_those_ignored_are_logged(caplog):
    rule = admission("192.0.2.1")
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            assert not rule.admits(f"198.51.{number // 250}.{number % 250}")
            assert rule.admits("192.0.2.1")
    assert rule.ignored == 1000
    assert len(caplog.messages) == 10
    assert caplog.messages[0] == (
        "control: commands ignored: 1; the last one from 198.51.0.0, which no --control-allow admits"
    )
    assert "ignored: 512; the last one from 198.51.2.11," in caplog.messages[-1]
