"""Where media may be sent: the rules for one destination, as values."""

from ipaddress import ip_network

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.config import ListenAddress, MediaNetwork
from rtpproxy.session.local import LocalAddress
from rtpproxy.session.reach import (
    BROADCAST,
    CONTROL,
    LOOPBACK,
    LOW_PORT,
    MAPPED,
    MAX_REMEMBERED,
    MULTICAST,
    SIP_PORT,
    UNSPECIFIED,
    Reach,
    is_loopback,
)

PHONE = "198.51.100.7"
OURS, OURS6 = "192.0.2.1", "2001:db8::1"
ANY = (ListenAddress(),)
LOCAL = [ip_network(text) for text in ("127.0.0.0/8", OURS, "10.9.0.0/16", "::1", OURS6, "fe80::1")]
BROADCASTS = [ip_network(text) for text in ("192.0.2.255", "127.255.255.255")]


def networks(*texts):
    return tuple(MediaNetwork(ip_network(text)) for text in texts)


def make_reach(listen=ANY, allow=(), deny=(), control=()):
    reach = Reach(listen, allow, deny)
    reach.host_has(LOCAL, BROADCASTS)
    reach.control_is_at([Endpoint(*one) for one in control])
    return reach


def refusal(host, port=5004, *, is_from_loopback=False, **options):
    return make_reach(**options).refusal((host, port), is_from_loopback=is_from_loopback)


@pytest.mark.parametrize("port", [0, 1, 80, 1023, 1024, 5004, 5060, 22222, 65535])
@pytest.mark.parametrize(
    "host",
    [
        *(PHONE, "10.0.0.1", "100.64.0.1", "169.254.1.1", "192.0.2.2", "240.0.0.1", "198.51.100.255"),
        *("2001:db8::2", "fc00::1", "fe80::2%2", "fe80::2", "::127.0.0.1", "64:ff9b::7f00:1"),
    ],
)
def test_phones_are_reached_at_every_port(host, port):
    assert refusal(host, port, control=[("0.0.0.0", 22222), ("::", 22222)]) == ""


@pytest.mark.parametrize("is_from_loopback", [False, True])
@pytest.mark.parametrize(
    ("host", "why"),
    [
        *(("0.0.0.0", UNSPECIFIED), ("0.0.0.1", UNSPECIFIED), ("0.255.255.255", UNSPECIFIED), ("::", UNSPECIFIED)),
        *(("224.0.0.1", MULTICAST), ("239.255.255.255", MULTICAST), ("ff02::1", MULTICAST), ("ff02::1%2", MULTICAST)),
        *(("255.255.255.255", BROADCAST), ("192.0.2.255", BROADCAST), ("127.255.255.255", BROADCAST)),
        *(("::ffff:127.0.0.1", MAPPED), ("::ffff:198.51.100.7", MAPPED), ("::ffff:0.0.0.0", MAPPED)),
    ],
)
def test_never_whatever_the_operator_allows(host, why, is_from_loopback):
    allow = networks("0.0.0.0/0", "::/0", host.partition("%")[0])
    assert refusal(host, is_from_loopback=is_from_loopback) == why
    assert refusal(host, is_from_loopback=is_from_loopback, allow=allow) == why


# Loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "127.255.255.254", "::1"])
def test_loopback_is_for_loopback_only(host):
    assert refusal(host) == LOOPBACK
    assert refusal(host, is_from_loopback=True) == ""
    assert refusal(host, allow=networks("127.0.0.0/8", "::1")) == ""
    assert refusal(host, allow=networks("0.0.0.0/0", "::/0")) == LOOPBACK, "nobody means loopback by this"


def test_loopback_is_allowed_as_narrowly_as_it_is_named():
    allow = (MediaNetwork(ip_network("127.0.0.1"), 6000, 6999),)
    assert refusal("127.0.0.1", 6000, allow=allow) == refusal("127.0.0.1", 6999, allow=allow) == ""
    assert refusal("127.0.0.1", 7000, allow=allow) == refusal("127.0.0.2", 6000, allow=allow) == LOOPBACK
    denied = refusal("127.0.0.1", deny=networks("127.0.0.0/8"), is_from_loopback=True)
    assert denied == "--media-deny 127.0.0.0/8"


def test_a_stream_is_on_loopback_where_that_is_configured_or_its_packets_arrive_there():
    reach = make_reach(listen=(ListenAddress("127.0.0.1"), ListenAddress(OURS, label="out")))
    assert reach.is_loopback(LocalAddress(0, "127.0.0.1"), "127.0.0.1")
    assert not reach.is_loopback(LocalAddress(1, OURS), OURS)
    assert not reach.is_loopback(LocalAddress(0, "127.0.0.2"), "127.0.0.2"), "only a command named it"
    wildcard = LocalAddress(0)
    assert not reach.is_loopback(wildcard, "")
    assert not reach.is_loopback(wildcard, OURS)
    assert reach.is_loopback(wildcard, "127.0.0.1")


def test_loopback_as_text():
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1")] == [True] * 3
    assert [is_loopback(host) for host in ("", "128.0.0.1", "12.7.0.0", "::", "::127", "1::1")] == [False] * 6


# This host


@pytest.mark.parametrize("host", [OURS, OURS6, "10.9.3.3", "fe80::1%2", "127.0.0.1", "::1"])
def test_own_ports(host):
    def refused(port):
        return refusal(host, port, is_from_loopback=True, allow=networks("0.0.0.0/0", "::/0", "127.0.0.0/8"))

    assert {port: refused(port) for port in (1, 53, 1023)} == dict.fromkeys((1, 53, 1023), LOW_PORT)
    assert refused(5060) == refused(5061) == SIP_PORT
    assert [refused(port) for port in (0, 1024, 5059, 5062, 10000, 65535)] == [""] * 6


def test_addresses_come_and_go():
    reach = make_reach()
    assert reach.refusal((PHONE, 80), is_from_loopback=False) == ""
    assert not reach.host_has(LOCAL[::-1], BROADCASTS), "the same in another order"
    assert reach.host_has([*LOCAL, ip_network(PHONE)], BROADCASTS)
    assert reach.refusal((PHONE, 80), is_from_loopback=False) == LOW_PORT
    assert reach.host_has(LOCAL, [*BROADCASTS, ip_network(PHONE)])
    assert reach.refusal((PHONE, 5004), is_from_loopback=False) == BROADCAST
    assert reach.host_has(LOCAL, BROADCASTS)
    assert reach.refusal((PHONE, 80), is_from_loopback=False) == ""


# Control sockets


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
@pytest.mark.parametrize("host", [OURS, OURS6, "10.9.3.3", "fe80::1%2", "127.0.0.1", "127.9.9.9", "::1"])
def test_a_control_socket_on_all_addresses(host, wildcard):
    allow = (MediaNetwork(ip_network(host.partition("%")[0]), 22222, 22222), *networks("127.0.0.0/8", "::1"))
    options = {"control": [(wildcard, 22222), (wildcard, 9000)], "is_from_loopback": True, "allow": allow}
    assert refusal(host, 22222, **options) == refusal(host, 9000, **options) == CONTROL
    assert refusal(host, 22221, **options) == ""


@pytest.mark.parametrize("host", [OURS, OURS6, "127.0.0.1", "::1", "fe80::1", "203.0.113.1"])
def test_a_control_socket_on_one_address(host):
    def refused(host):
        return refusal(host, 22222, is_from_loopback=True, control=[(at, 22222)])

    at = host
    assert refused(host) == CONTROL
    assert [refused(one) for one in (OURS, OURS6, "127.0.0.1", "::1", PHONE) if one != host].count(CONTROL) == 0


def test_the_zone_of_a_control_socket_does_not_matter():
    assert refusal("fe80::1%2", 22222, control=[("fe80::1%eth0", 22222)]) == CONTROL


def test_an_advertised_address_leads_to_the_control_socket_behind_the_nat():
    nat = "203.0.113.5"
    listen = (ListenAddress(OURS, advertised=nat), ListenAddress("192.0.2.9", label="b", advertised="media.example"))

    def refused(port, control, listen=listen):
        return refusal(nat, port, listen=listen, control=[(control, 22222)])

    assert refused(22222, "0.0.0.0") == refused(22222, OURS) == CONTROL
    assert refused(22222, "192.0.2.9") == refused(22222, "127.0.0.1") == ""
    assert (refused(80, OURS), refused(5060, OURS)) == (LOW_PORT, SIP_PORT)
    assert refused(35000, OURS) == "", "a hairpin"
    anywhere = (ListenAddress(advertised=nat),)
    assert refused(22222, "0.0.0.0", anywhere) == refused(22222, OURS, anywhere) == CONTROL
    assert refused(22222, "127.0.0.1", anywhere) == ""


# The operator's list


def test_the_longest_prefix_decides():
    lists = {"allow": networks("10.1.0.0/16", "10.1.2.3"), "deny": networks("10.0.0.0/8", "10.1.2.0/24")}
    assert refusal("10.0.0.1", **lists) == "--media-deny 10.0.0.0/8"
    assert refusal("10.1.0.1", **lists) == ""
    assert refusal("10.1.2.4", **lists) == "--media-deny 10.1.2.0/24"
    assert refusal("10.1.2.3", **lists) == ""
    assert refusal("11.0.0.1", **lists) == ""
    assert refusal("2001:db8::2", **lists) == ""


def test_deny_wins_a_tie():
    assert refusal("10.0.0.1", allow=networks("10.0.0.0/8"), deny=networks("10.0.0.0/8")) == "--media-deny 10.0.0.0/8"


def test_a_network_is_looked_at_only_for_its_ports():
    deny = (*networks("0.0.0.0/0", "::/0"),)
    allow = (MediaNetwork(ip_network("10.0.0.0/8"), 16384, 32767), MediaNetwork(ip_network("2001:db8::/32"), 9, 9))
    assert refusal("10.0.0.1", 16384, allow=allow, deny=deny) == ""
    assert refusal("10.0.0.1", 32767, allow=allow, deny=deny) == ""
    assert refusal("10.0.0.1", 16383, allow=allow, deny=deny) == "--media-deny 0.0.0.0/0"
    assert refusal("10.0.0.1", 32768, allow=allow, deny=deny) == "--media-deny 0.0.0.0/0"
    assert refusal("2001:db8::2", 9, allow=allow, deny=deny) == ""
    assert refusal("2001:db8::2", 10, allow=allow, deny=deny) == "--media-deny ::/0"


@pytest.mark.parametrize("network", ["::/0", "::/1", "::ffff:0:0/96"])
def test_an_ipv6_network_says_nothing_of_ipv4(network):
    assert refusal("192.0.2.1", deny=networks(network)) == ""
    assert refusal("127.0.0.1", allow=networks(network)) == LOOPBACK


def test_an_ipv4_network_says_nothing_of_ipv6():
    assert refusal("2001:db8::1", deny=networks("0.0.0.0/0")) == ""


def test_an_allowed_network_says_nothing_of_others():
    assert refusal(PHONE, allow=networks("10.0.0.0/8")) == ""


def test_networks_as_written():
    assert str(MediaNetwork(ip_network("10.0.0.0/8"))) == "10.0.0.0/8"
    assert str(MediaNetwork(ip_network("10.0.0.0/8"), 5, 6)) == "10.0.0.0/8:5-6"
    assert str(MediaNetwork(ip_network("2001:db8::/32"), 5, 5)) == "[2001:db8::/32]:5"


def test_what_is_remembered_has_a_limit():
    reach = make_reach(deny=networks("10.0.0.0/8"))
    for number in range(2 * MAX_REMEMBERED):
        reach.refusal((f"11.{number >> 16}.{number >> 8 & 255}.{number & 255}", 5004), is_from_loopback=False)
    assert len(reach._rules) <= MAX_REMEMBERED
    assert reach.refusal(("10.0.0.1", 5004), is_from_loopback=False) == "--media-deny 10.0.0.0/8"
