"""Our addresses and their port spaces (protocol.md 7.2 to 7.4)."""

from dataclasses import replace

import pytest

from rtpproxy.config import ListenAddress
from rtpproxy.session.local import LocalAddress, LocalAddresses, port_key

ANY4, ANY6 = ListenAddress(), ListenAddress(is_ipv6=True)
ONE = ListenAddress("192.0.2.1")
TWO = ListenAddress("192.0.2.2", label="two", advertised="relay.example.com")
SIX = ListenAddress("2001:db8::1", is_ipv6=True, label="six")


def addresses(*listen, routes=None):
    return LocalAddresses(listen, False, (routes or {}).get)


def test_configured_addresses_are_numbered_in_their_order():
    ours = addresses(ONE, TWO, SIX)
    assert ours.known == (
        LocalAddress(0, "192.0.2.1"),
        LocalAddress(1, "192.0.2.2", label="two", advertised="relay.example.com"),
        LocalAddress(2, "2001:db8::1", is_ipv6=True, label="six"),
    )
    assert (ours.default, ours.external) == ours.known[:2]


def test_same_port_of_two_addresses_has_two_keys():
    ours = addresses(ONE, TWO)
    keys = [one.key(20000) for one in ours.known]
    assert keys == [20000, 65536 + 20000] == [port_key(0, 20000), port_key(1, 20000)]
    assert ours.known[0].key(65535) < ours.known[1].key(0)


@pytest.mark.parametrize(("label", "slot"), [("two", 1), ("six", 2), ("Two", None), ("tw", None), ("one", None)])
def test_labels_are_exact(label, slot):
    found = addresses(ONE, TWO, SIX).labelled(label)
    assert (None if found is None else found.slot) == slot


@pytest.mark.parametrize(
    ("listen", "is_ipv6", "slot"),
    [
        ([ONE, TWO, SIX], False, 1),
        ([ONE, TWO, SIX], True, 2),
        ([SIX, ONE, TWO], False, 2),
        ([ONE, TWO], True, None),
        ([SIX], False, None),
        ([ANY4], True, None),
        ([ANY4, ANY6], True, 1),
    ],
)
def test_latest_of_a_family(listen, is_ipv6, slot):
    found = addresses(*listen).of_family(is_ipv6)
    assert (None if found is None else found.slot) == slot


def test_configured_host_is_found_with_all_it_has():
    ours = addresses(ONE, TWO)
    assert ours.at("192.0.2.2") is ours.known[1]


@pytest.mark.parametrize(
    ("advertised", "found"),
    [(("", ""), 1), (("", "b"), 1), (("a", ""), 0), (("a", "b"), 1)],
)
def test_last_advertised_name_of_a_host_that_is_configured_twice(advertised, found):
    ours = addresses(*(replace(ONE, label=f"label {name}", advertised=name) for name in advertised))
    assert ours.at(ONE.host) is ours.known[found]
    # A label selects its own address and name.
    assert [ours.labelled(f"label {name}").advertised for name in advertised] == list(advertised)


@pytest.mark.parametrize("null", ["0.0.0.0", "::"])
def test_null_address_is_the_wildcard_of_its_family(null):
    ours = addresses(ANY4, ANY6, ONE, SIX)
    assert ours.at(null) is ours.towards(null) is ours.known[null == "::"]


def test_null_address_without_a_wildcard_is_the_first_of_its_family_unnamed():
    ours = addresses(replace(TWO, host="192.0.2.7"), ONE, SIX)
    null = ours.at("0.0.0.0")
    assert ours.towards("0.0.0.0") is null
    assert (null.slot, null.host, null.is_ipv6, null.shown) == (0, "192.0.2.7", False, "")
    assert ours.at("::").shown == ""
    assert ours.known_as(null) is null  # its sockets are those of the first
    assert ours.known[0].shown == "relay.example.com"


def test_null_address_of_a_family_that_is_not_configured():
    ours = addresses(ONE)
    ours.join(ours.at("::1"))
    assert (ours.at("::"), ours.towards("::")) == (None, None)


def test_same_host_twice_is_one_port_space():
    ours = addresses(ONE, replace(ONE, label="again"), TWO)
    assert [one.slot for one in ours.known] == [0, 0, 1]


def test_port_spaces_are_numbered_without_gaps():
    """Each costs a row for every port."""
    for listen, slots in (
        ((ANY4, ONE, TWO, SIX), [0, 0, 0, 1]),
        ((ONE, SIX, TWO, ANY4), [0, 1, 0, 0]),
        ((ONE, SIX, TWO, ANY6), [0, 1, 2, 1]),
        ((ANY6, SIX, ANY4, ONE), [0, 0, 1, 1]),
    ):
        assert [one.slot for one in addresses(*listen).known] == slots


def test_other_host_shares_the_slot_of_the_default():
    ours = addresses(ONE, TWO)
    assert ours.at("192.0.2.9") == LocalAddress(0, "192.0.2.9")
    assert ours.at("::1") == LocalAddress(0, "::1", is_ipv6=True)


def test_host_under_a_wildcard_shares_its_slot():
    """Ports of the wildcard and of the address would collide."""
    ours = addresses(SIX, ANY4)
    assert ours.at("192.0.2.9") == LocalAddress(1, "192.0.2.9")
    assert ours.at("::1") == LocalAddress(0, "::1", is_ipv6=True)


def test_address_is_known_as_what_joined_though_it_was_given_before():
    ours = addresses(ONE, TWO)
    first, second = ours.at("192.0.2.9"), ours.at("192.0.2.9")
    assert ours.known_as(first) is None
    ours.join(first)
    assert ours.known_as(first) == ours.known_as(second) == first
    assert ours.known_as(ours.known[1]) is ours.known[1]
    assert ours.known_as(ours.at("192.0.2.8")) is None


def test_address_joins_once_it_was_opened():
    ours = addresses(ONE)
    found = ours.at("192.0.2.9")
    # A caller that cannot open a socket on it does not call `join`, and nothing changes.
    assert ours.known == (LocalAddress(0, "192.0.2.1"),)
    ours.join(found)
    assert ours.known == (LocalAddress(0, "192.0.2.1"), found)
    assert ours.at("192.0.2.9") is found
    assert ours.of_family(is_ipv6=False) is found
    ours.join(found)
    assert len(ours.known) == 2


def test_address_towards_another():
    ours = addresses(ONE, TWO, routes={"198.51.100.1": "192.0.2.2", "198.51.100.2": "192.0.2.9"})
    assert ours.towards("198.51.100.1") is ours.known[1]
    assert ours.towards("198.51.100.2") == LocalAddress(0, "192.0.2.9")
    assert ours.towards("198.51.100.3") is None


@pytest.mark.parametrize(
    ("address", "host", "is_covered"),
    [
        (LocalAddress(0, "192.0.2.1"), "192.0.2.1", True),
        (LocalAddress(0, "192.0.2.1"), "192.0.2.2", False),
        (LocalAddress(0, "192.0.2.1"), "", False),
        (LocalAddress(0), "192.0.2.2", True),
        (LocalAddress(0), "2001:db8::1", False),
        (LocalAddress(0), "", True),
        (LocalAddress(0, is_ipv6=True), "2001:db8::1", True),
        (LocalAddress(0, is_ipv6=True), "192.0.2.2", False),
    ],
)
def test_which_hosts_an_address_covers(address, host, is_covered):
    assert address.covers(host) == is_covered
